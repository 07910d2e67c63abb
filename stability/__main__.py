"""`python -m stability` is the command line."""

import sys

from stability.report.commands import main

if __name__ == "__main__":
    sys.exit(main())
