"""
Tables with skrub
=================

`skrub <https://skrub-data.org>`_ prepares messy tables for scikit-learn. Its ``TableVectorizer``
finds out what each column is, and BERT takes those that hold texts.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from skrub import TableVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import BertVectorizer, load_reviews

reviews, _ = load_reviews()
reviews = reviews.sample(500, random_state=0).reset_index(drop=True)

# %%
# A table as it comes from a shop: texts, a category, a date and a number.

rng = np.random.default_rng(0)
table = reviews[["text", "domain"]].assign(
    date=pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 300, len(reviews)), unit="D"),
    price=rng.gamma(3, 10, len(reviews)).round(2),
)
table.head()

# %%
# ``specific_transformers`` gives the column of texts to BERT; skrub sees to the others.

vectorizer = TableVectorizer(specific_transformers=[(BertVectorizer(layers="all"), ["text"])])
model = make_pipeline(vectorizer, StandardScaler(), LogisticRegression(C=0.001, max_iter=2000))
model.fit(table, reviews["label"])

# %%
# skrub's own way to read texts, without a language model, beside it:

plain = make_pipeline(
    TableVectorizer(), StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)
)
scores = {
    name: cross_val_score(estimator, table, reviews["label"], cv=5)
    for name, estimator in {"skrub's default": plain, "BERT for the text": model}.items()
}
figure, axes = plt.subplots(figsize=(6, 1.8), layout="constrained")
axes.boxplot(scores.values(), orientation="horizontal", tick_labels=scores.keys())
axes.set_xlabel("accuracy, five folds")
plt.show()
