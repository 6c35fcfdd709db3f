"""
Labels that are probably wrong
==============================

Every table that people have labelled has errors. ``label_issues`` trains on some of the texts and
judges the labels of the others, so that you look at the most doubtful ones first.
"""

import matplotlib.pyplot as plt
import numpy as np

from pipeline import label_issues, load_reviews, make_sentiment_pipeline

train, _ = load_reviews()
train = train.sample(1000, random_state=0).reset_index(drop=True)

# %%
# One label in twenty is turned around, so that we know what there is to find.

rng = np.random.default_rng(0)
wrong = rng.random(len(train)) < 0.05
labels = train["label"].mask(
    wrong, train["label"].map({"positive": "negative", "negative": "positive"})
)
print(f"{wrong.sum()} wrong labels of {len(labels)}")

# %%
# The index of the table is the row of the text, the most doubtful first.

table = label_issues(make_sentiment_pipeline(), train["text"], labels)
table["turned"] = wrong[table.index]
table.head(8).round(2)

# %%
# How many of the wrong labels are found, by how many texts one has read?

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(np.arange(1, len(table) + 1), table["turned"].cumsum() / wrong.sum(), label="by doubt")
axes.plot([0, len(table)], [0, 1], "--", color="grey", label="in any order")
axes.axvline(table["issue"].sum(), color="grey", linewidth=1)
axes.set(xlabel="texts read (line: those with issue=True)", ylabel="share of the wrong labels")
axes.legend()
plt.show()
