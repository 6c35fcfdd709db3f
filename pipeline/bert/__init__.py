"""The BERT room: texts -> tokens -> batches -> hidden states -> vectors. Knows torch; knows no scikit-learn, no pandas."""
