"""
Which words made it
===================

With mean pooling the decision is a sum over the words of a text, so that each word's part of it is
exact. ``explain`` gives them as DataFrames, and a notebook shows the text in colour.
"""

import matplotlib.pyplot as plt
import pandas as pd

from pipeline import explain, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
model = make_sentiment_pipeline().fit(train["text"], train["label"])

# %%
# Blue words speak for the second class, here ``positive``, and orange ones for the first.

sentences = test.groupby("trait").head(1)
explain(model, sentences["text"])

# %%
# One text as numbers. They add up to the decision, with the intercept.

frame = explain(model, ["The food was good, but the waiter was rude."])[0]
total = frame["contribution"].sum() + frame.attrs["intercept"]
print(f"sum {total:.4f}, decision {frame.attrs['decision']:.4f}")
frame.round(3)

# %%
# Over all test texts: which words push most, of those that occur five times or more?

words = pd.concat(explain(model, test["text"]))
words = words[words["word"].str.fullmatch(r"[A-Za-z]+")]
by_word = words.groupby(words["word"].str.lower())["contribution"].agg(["mean", "size"])
strongest = by_word[by_word["size"] >= 5].sort_values("mean")
strongest = pd.concat([strongest.head(10), strongest.tail(10)])

figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
axes.barh(strongest.index, strongest["mean"], color=["C1"] * 10 + ["C0"] * 10)
axes.set_xlabel("mean contribution to the decision for positive")
plt.show()
