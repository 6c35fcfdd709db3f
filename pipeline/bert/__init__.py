"""The BERT forward pass, from texts to vectors, in torch alone."""
