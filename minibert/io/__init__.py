"""Files, the hub and official formats: imports nothing else of minibert."""
