"""Model ids and folders become verified files."""
