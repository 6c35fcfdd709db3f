"""
Several labels per text
=======================

A message may be about the food and about the service. Labels are then a table with a column of ones
and zeros for each label, and a classifier for each of them stands behind one BERT.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, evaluate, load_reviews

train, _ = load_reviews()

# %%
# Two reviews are put together here, so that most texts have two subjects.

pairs = train.sample(800, random_state=0)
first, second = pairs[:400].reset_index(), pairs[400:].reset_index()
texts = first["text"] + " " + second["text"]
labels = pd.get_dummies(first["domain"]) | pd.get_dummies(second["domain"])
labels["a complaint"] = (first["label"] == "negative") | (second["label"] == "negative")
labels = labels.astype(int)
labels.head()

# %%
# Any classifier of several labels does, here one logistic regression for each.

classifier = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=2000))
model = make_pipeline(BertVectorizer(layers="all"), classifier)
model.fit(texts[:300], labels[:300])

# %%
# ``evaluate`` scores each label and all of them.

evaluate(model, texts[300:], labels[300:], n_bootstrap=200)

# %%
# Where the threshold of a label should be is another question. Out-of-fold probabilities answer it.

probability = cross_val_predict(model, texts, labels, cv=3, method="predict_proba")
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
thresholds = np.linspace(0.05, 0.95, 19)
for i, label in enumerate(labels):
    true, found = labels[label] == 1, probability[:, i, None] > thresholds
    f1 = 2 * (found & true.to_numpy()[:, None]).sum(0) / (found.sum(0) + true.sum())
    axes.plot(thresholds, f1, label=label)
axes.set(xlabel="threshold", ylabel="F1")
axes.legend(fontsize="small")
plt.show()
