"""A self-contained page about a classifier, as HTML and JSON."""
