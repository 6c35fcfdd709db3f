"""Scores, comparisons and layer studies of classifiers."""
