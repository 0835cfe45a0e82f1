"""Faster parts and files of any length; what is measured beside others."""
