"""
Calibrated probabilities
========================

Of the texts with a probability of 0.8, four in five should be right. A logistic regression with the
default ``C`` is close to that; others, such as support vectors, have to be calibrated.
"""

import matplotlib.pyplot as plt
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
y = (test["label"] == "positive").astype(int)

# %%
# Three models: the default one; one with hardly any regularisation, which is far too sure; and the
# same, calibrated by cross-validation.

sure = make_pipeline(BertVectorizer(layers="all"), LogisticRegression(C=100, max_iter=5000))
models = {
    "default, C=0.1": make_sentiment_pipeline(),
    "C=100": sure,
    "C=100, calibrated": CalibratedClassifierCV(sure, cv=3),
}

figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
for name, model in models.items():
    model.fit(train["text"], train["label"])
    probability = model.predict_proba(test["text"])[:, 1]
    print(
        f"{name:18} accuracy {model.score(test['text'], test['label']):.3f}, "
        f"log loss {log_loss(y, probability):.3f}, Brier {brier_score_loss(y, probability):.3f}"
    )
    CalibrationDisplay.from_predictions(y, probability, n_bins=8, name=name, ax=axes)
axes.set(xlabel="probability of positive", ylabel="share that is positive")
plt.show()
