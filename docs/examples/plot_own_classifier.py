"""
Your own classifier
===================

The features are an array of floats, so anything of scikit-learn may stand behind them. Since the
vectors are kept, a fifth classifier costs no more than its own fit.
"""

import time

import matplotlib.pyplot as plt
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from pipeline import BertVectorizer, cache_info, explain, load_reviews

train, _ = load_reviews()
train = train.sample(600, random_state=0)

bert = BertVectorizer(layers="all")
models = {
    "logistic regression": make_pipeline(bert, LogisticRegression(C=0.1, max_iter=2000)),
    "support vectors": make_pipeline(bert, StandardScaler(), SVC()),
    "nearest neighbours": make_pipeline(bert, KNeighborsClassifier(15, metric="cosine")),
    "boosted trees": make_pipeline(
        bert, PCA(30, random_state=0), HistGradientBoostingClassifier(max_iter=50, random_state=0)
    ),
}

# %%
# The same three folds for all of them.

scores = {}
for name, model in models.items():
    start = time.perf_counter()
    scores[name] = cross_val_score(model, train["text"], train["label"], cv=3).mean()
    print(f"{name:20} {scores[name]:.3f}  {time.perf_counter() - start:5.1f} s")
cache_info()

# %%

figure, axes = plt.subplots(figsize=(6, 2.2), layout="constrained")
axes.barh(list(scores), list(scores.values()))
axes.set(xlim=(0.5, 0.9), xlabel="accuracy, three folds")
plt.show()

# %%
# ``explain`` takes any of them. Where the decision is no sum over words, as with the support
# vectors, it leaves out each word in turn.

explain(models["support vectors"].fit(train["text"], train["label"]), ["A witty, lovely film."])
