"""`python -m geocbm` is the command `geocbm`."""

import sys

from geocbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
