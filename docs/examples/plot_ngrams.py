"""
N-grams beside BERT
===================

BERT reads sentences, and TF-IDF counts words. They make different mistakes, so that both together
are often better than either. ``ngrams=True`` puts a TF-IDF classifier beside BERT and weighs the
decisions of the two.
"""

import matplotlib.pyplot as plt

from pipeline import compare, explain, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
train = train.sample(600, random_state=0)

# %%
# ``compare`` scores them on the same folds, each against TF-IDF. No extra step encodes a text
# twice.

table = compare(train["text"], train["label"], models=["tfidf", "default", "ngrams"], cv=5)
table

# %%
# The interval is that of the difference to TF-IDF. Where it does not reach 0, the row is better.

rows = table.iloc[1:]
low, high = (
    rows["difference"] - rows["difference_low"],
    rows["difference_high"] - rows["difference"],
)
figure, axes = plt.subplots(figsize=(6, 1.8), layout="constrained")
axes.errorbar(
    100 * rows["difference"], rows.index, xerr=[100 * low, 100 * high], fmt="o", capsize=4
)
axes.axvline(0, color="grey", linewidth=1)
axes.set_xlabel("points of accuracy above TF-IDF, 95 % interval")
axes.margins(y=0.5)
plt.show()

# %%
# The parts of a decision add up word by word, for both together.

model = make_sentiment_pipeline(ngrams=True).fit(train["text"], train["label"])
explain(model, test["text"][:2])
