"""`python -m geocbm` is the command `geocbm`."""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # while libraries are imported nothing says an interrupt in one sentence

from geocbm.cli import main

if __name__ == "__main__":
    sys.exit(main())
