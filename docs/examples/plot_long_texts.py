"""
Long texts
==========

BERT reads so many tokens at a time and no more: 512 in most models. What is longer is cut, which is
counted and warned of, or read in windows.
"""

import warnings

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.model_selection import cross_val_score

from pipeline import BertVectorizer, TruncationWarning, load_reviews, make_sentiment_pipeline

train, _ = load_reviews()

# %%
# The shipped reviews are short. Here twelve of them make one long text, in any order: nine have
# the label of the whole, and three have the other one.

rng = train.sample(frac=1, random_state=0)
good, bad = (rng.loc[rng["label"] == label, "text"].tolist() for label in ("positive", "negative"))
texts, labels = [], []
for i in range(60):
    for label, own, other in (("good", good, bad), ("bad", bad, good)):
        parts = own[i * 9 : i * 9 + 9] + other[560 + i * 3 : 563 + i * 3]
        texts.append(" ".join(pd.Series(parts).sample(frac=1, random_state=i)))
        labels.append(label)

# %%
# How many tokens do they have?

counts = BertVectorizer().fit(texts).count_tokens(texts)
counts["n_tokens"].describe().round()

# %%
# A model that reads 64 tokens says what it loses.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", TruncationWarning)
    short = BertVectorizer(max_length=64).fit(texts)
print(caught[0].message)
short.truncation_report_

# %%
# What to keep: the start, the end, both, or all of it in windows whose vectors are averaged.

scores = {}
for truncation in ("head", "tail", "head_tail", "window"):
    model = make_sentiment_pipeline(max_length=64, truncation=truncation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        scores[truncation] = cross_val_score(model, texts, labels, cv=5).mean()

figure, axes = plt.subplots(figsize=(6, 2.4), layout="constrained")
axes.barh(list(scores), list(scores.values()))
axes.set(xlim=(0.4, 1), xlabel="accuracy, five folds")
plt.show()
