"""Folder of one `evaluate` module; load it by its path, not as a package."""
