"""`python -m cfsam_hf`: the command `cfsam`."""

import sys

from .commands.terminal import main

if __name__ == "__main__":
    sys.exit(main())
