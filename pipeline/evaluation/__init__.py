"""Score, compare and study classifiers."""
