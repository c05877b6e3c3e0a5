"""`python -m geocbm` is the command `geocbm`."""

import signal
import sys

# While libraries are imported nothing could say an interrupt in one sentence.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from geocbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
