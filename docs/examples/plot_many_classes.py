"""
Many classes
============

Nothing is different with ten classes or with seventy-seven: labels are strings or numbers, and the
classifier has one row of weights for each of them.
"""

import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

from pipeline import evaluate, explain, load_reviews, make_sentiment_pipeline

train, test = load_reviews()

# %%
# Ten classes of the shipped reviews: what they are about, and what they think of it.

y_train = train["domain"] + ", " + train["label"]
y_test = test["domain"] + ", " + test["label"]
y_train.value_counts()

# %%
# How much regularisation is right depends on the number of classes. ``C="cv"`` chooses it within
# each fit.

model = make_sentiment_pipeline(C="cv").fit(train["text"], y_train)
print(f"C = {model[-1].C_}, accuracy {model.score(test['text'], y_test):.3f}")

# %%
# Which classes are taken for which? Mostly the same subject with the other verdict.

figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
ConfusionMatrixDisplay.from_estimator(
    model, test["text"], y_test, ax=axes, xticks_rotation="vertical", colorbar=False, cmap="Blues"
)
plt.show()

# %%
# ``evaluate`` has the scores with their intervals, class by class, and the mistakes it was surest
# of.

evaluate(model, test["text"], y_test, n_bootstrap=200)

# %%
# And ``explain`` says why it is this class and not the second.

explain(model, ["The screen cracked on the first day."], against="runner-up")
