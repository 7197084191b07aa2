"""`python -m tools.codes design|construct|measure|table`: docs/codes.md says what each does and how long it takes."""

import argparse
import sys

from tools.codes import commands


def main() -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m tools.codes", description=__doc__)
    commands.add(parser)
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
