"""
Few labels
==========

A frozen BERT has seen a lot of text before it sees yours, which shows where labels are few. This
curve has one point for each number of labelled texts.
"""

import matplotlib.pyplot as plt
from sklearn.model_selection import LearningCurveDisplay, StratifiedShuffleSplit

from pipeline import load_reviews, make_sentiment_pipeline
from pipeline.evaluation.baselines import make_tfidf_baseline

train, _ = load_reviews()

# %%
# Ten splits for each size. All of them together encode each text once, for the vectors are kept.

sizes = [20, 40, 80, 160, 320, 640, 1280]
splits = StratifiedShuffleSplit(5, test_size=400, random_state=0)
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
models = {"frozen BERT": make_sentiment_pipeline(), "TF-IDF": make_tfidf_baseline()}
for name, model in models.items():
    curve = LearningCurveDisplay.from_estimator(
        model,
        train["text"],
        train["label"],
        train_sizes=sizes,
        cv=splits,
        shuffle=True,
        random_state=0,
        score_type="test",
        ax=axes,
        line_kw={"label": name, "marker": "o"},
    )
    print(name, dict(zip(sizes, curve.test_scores.mean(axis=1).round(3).tolist(), strict=True)))
axes.set(xscale="log", xlabel="labelled texts", ylabel="accuracy")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.legend()
plt.show()
