"""`python -m postresponse` is the command `postresponse`."""

import sys

from postresponse.cli import main

if __name__ == "__main__":
    sys.exit(main())
