"""`python -m cora` is the command `cora`."""

import sys

from cora.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
