"""`python -m qhybridd.cli`."""

import sys

from qhybridd.cli.main import main

sys.exit(main())
