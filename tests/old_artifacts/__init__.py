"""Saved pipelines of every format there ever was; see README.md."""
