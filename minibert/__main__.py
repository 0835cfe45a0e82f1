"""``python -m minibert`` is the command ``minibert``."""

import sys

from minibert.cli.main import main

sys.exit(main())
