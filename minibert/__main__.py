"""``python -m minibert`` is the command ``minibert``."""

import sys

from minibert.cli import main

sys.exit(main())
