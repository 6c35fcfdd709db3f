"""
Which layer?
============

BERT has a vector of each text after each of its layers, and the last layer is not always the best
one. ``layer_study`` scores all of them on the same folds.
"""

from pipeline import layer_study, load_reviews
from pipeline.evaluation.plots import layer_heatmap

train, _ = load_reviews()
train = train.sample(600, random_state=0)

# %%
# Every layer with every pooling, and a few combinations of layers. Each text is encoded once. With
# ``nested=True`` the choice itself is scored too, for the best of many scores is optimistic.

study = layer_study(
    train["text"],
    train["label"],
    cv=3,
    combinations=("last", "concat of last four", "sum of all", "concat of all"),
    Cs=(0.01, 0.1, 1.0),
    nested=True,
)
study

# %%
# As a picture:

layer_heatmap(study)

# %%
# What a row says is what ``BertVectorizer`` takes.

best = study.loc[study["score"].idxmax()]
print(best[["features", "pooling", "layers", "combine", "C"]])
print(f"score of the best row {study.nested['best']:.3f}, of choosing {study.nested['score']:.3f}")
