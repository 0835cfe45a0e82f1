"""How much of a sweep is done: in CI a part, all of it with MINIBERT_ODD=1."""

import os

WHOLE = os.environ.get("MINIBERT_ODD") == "1"
