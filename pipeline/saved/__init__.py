"""Saved files: format, contents, and whether they may be opened."""
