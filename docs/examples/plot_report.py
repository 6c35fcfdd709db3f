"""
A report on one page
====================

``evaluate`` scores a model on texts it has not seen, and ``write_report`` makes one HTML page of
it: to mail, to keep with the model, to read on a phone. It needs no network and no script.
"""

import tempfile

from pipeline import compare, evaluate, load_reviews, make_sentiment_pipeline, write_report
from pipeline.evaluation.plots import comparison_figure

train, test = load_reviews()
model = make_sentiment_pipeline().fit(train["text"], train["label"])

# %%
# Scores with intervals, the groups where the model is weakest, and the mistakes it was surest of.
# The training texts help to find texts that stand in both sets.

scores = evaluate(
    model,
    test["text"],
    test["label"],
    by=test[["domain", "trait"]],
    train=(train["text"], train["label"]),
)
scores

# %%
# Beside simpler models:

few = train.sample(500, random_state=0)
comparison = compare(
    few["text"], few["label"], models=["majority", "tfidf", "cls", "default"], cv=3
)
comparison_figure(comparison)

# %%
# All of it on one page, which a notebook shows:

folder = tempfile.mkdtemp()
write_report(scores, f"{folder}/reviews.html", comparison=comparison, title="Reviews")
