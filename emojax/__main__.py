"""`python -m emojax` is the command `emojax`."""

import sys

from emojax.cli import main

sys.exit(main())
