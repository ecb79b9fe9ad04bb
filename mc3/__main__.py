"""`python -m mc3` and `accelerate launch -m mc3` are the `mc3` command."""

import sys

from mc3.cli import main

if __name__ == "__main__":
    sys.exit(main())
