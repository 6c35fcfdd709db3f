"""Texts -> tokens -> batches -> hidden states -> vectors, with torch alone."""
