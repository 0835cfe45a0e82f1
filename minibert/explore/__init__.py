"""A page to look inside a model."""
