"""
Rare classes
============

Where one label in ten is of interest, accuracy says little: it is high for a model that never finds
one. ``class_weight="balanced"`` makes each class count the same, and other scores show it.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.metrics import PrecisionRecallDisplay, classification_report

from pipeline import compare, load_reviews, make_sentiment_pipeline

train, test = load_reviews()


def with_few(table, share):
    """Keep all positive reviews, and few of the negative ones."""
    negative = table[table["label"] == "negative"].sample(frac=share, random_state=0)
    return pd.concat([table[table["label"] == "positive"], negative])


train, test = with_few(train, 0.1), with_few(test, 0.1)
train["label"].value_counts(normalize=True).round(2)

# %%
# Two models of the same vectors, with weights and without:

plain = make_sentiment_pipeline().fit(train["text"], train["label"])
balanced = make_sentiment_pipeline(class_weight="balanced").fit(train["text"], train["label"])
for model in (plain, balanced):
    print(classification_report(test["label"], model.predict(test["text"]), digits=2))

# %%
# Which of the two is right depends on what a missed complaint costs. The curve shows what can be
# had from each.

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
for name, model in {"plain": plain, "balanced": balanced}.items():
    PrecisionRecallDisplay.from_estimator(
        model, test["text"], test["label"], pos_label="negative", name=name, ax=axes
    )
plt.show()

# %%
# ``compare`` takes any scorer for its verdict, and names classes that a model never predicts.

compare(
    train["text"],
    train["label"],
    models={"plain": plain, "balanced": balanced},
    scoring="balanced_accuracy",
    cv=3,
)
