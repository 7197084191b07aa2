"""`python -m qhybridd` is the command `qhybridd`."""

import sys

from qhybridd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
