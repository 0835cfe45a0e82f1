"""Comparing tensors with the reference; naming the mistake behind a difference."""
