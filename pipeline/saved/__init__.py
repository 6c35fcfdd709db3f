"""What a saved file holds, and whether it may be opened."""
