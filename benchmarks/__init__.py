"""One script per claim; README.md beside this file says how to run them."""
