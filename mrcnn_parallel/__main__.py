"""`python -m mrcnn_parallel ...`: the command line, see cli.py."""

import sys

from mrcnn_parallel.cli import main

if __name__ == "__main__":
    sys.exit(main())
