"""One self-contained page about a classifier: plain values in, HTML and JSON out. Imported by cli."""
