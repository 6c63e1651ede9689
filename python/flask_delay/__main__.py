"""`python -m flask_delay`."""

import sys

from flask_delay.cli import main

sys.exit(main())
