"""Find models by id or folder and verify their files."""
