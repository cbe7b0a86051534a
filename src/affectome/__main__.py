"""`python -m affectome` is the command `affectome`."""

import sys

from affectome.cli import main

if __name__ == "__main__":
    sys.exit(main())
