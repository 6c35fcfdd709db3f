"""What a saved file holds and whether it may be opened; knows no torch. Used by artifact, and by vectorizer for its versions."""
