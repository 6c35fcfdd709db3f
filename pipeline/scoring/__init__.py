"""Score tables of any size, every row exactly once."""
