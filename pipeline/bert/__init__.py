"""The BERT forward pass in torch."""
