"""A model by id or folder -> verified files: folder, installed copy, hub cache, hub. Knows no torch; used by bert, vectorizer."""
