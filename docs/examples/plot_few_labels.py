"""
Few labels
==========

A frozen BERT has seen a lot of text before it sees yours, which shows where labels are few. This
curve has one point for each number of labelled texts.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import StratifiedShuffleSplit, learning_curve

from pipeline import load_reviews, make_sentiment_pipeline
from pipeline.evaluation.baselines import make_tfidf_baseline

train, _ = load_reviews()

# %%
# Five splits for each size. All of them together encode each text once, for the vectors are kept.

sizes = [20, 40, 80, 160, 320, 640, 1280]
splits = StratifiedShuffleSplit(5, test_size=400, random_state=0)
options = {"train_sizes": sizes, "cv": splits, "shuffle": True, "random_state": 0}
models = {"frozen BERT": make_sentiment_pipeline(), "TF-IDF": make_tfidf_baseline()}

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for name, model in models.items():
    _, _, scores = learning_curve(model, train["text"], train["label"], **options)
    axes.errorbar(sizes, scores.mean(axis=1), scores.std(axis=1), marker="o", capsize=3, label=name)
    print(name, scores.mean(axis=1).round(3))
axes.set(xscale="log", xlabel="labelled texts", ylabel="accuracy")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend()
plt.show()
