"""`python -m jaxsoftmax`: the same as the command `jaxsoftmax`."""

import sys

from jaxsoftmax.cli import main

if __name__ == "__main__":
    sys.exit(main())
