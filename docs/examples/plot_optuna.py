"""
A search with Optuna
====================

Pooling, layers and the classifier's ``C`` are parameters as any other. `Optuna
<https://optuna.org>`_ tries some of them, and since the first pass over a text keeps the vectors of
all layers, a trial costs no more than a logistic regression.
"""

import matplotlib.pyplot as plt
import optuna
from sklearn.model_selection import cross_val_score

from pipeline import cache_info, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
train = train.sample(500, random_state=0)
LAYERS = {"last": -1, "second to last": -2, "last four": (-4, -3, -2, -1), "all": "all"}


def objective(trial):
    """Return the accuracy of one choice."""
    model = make_sentiment_pipeline(
        layers=LAYERS[trial.suggest_categorical("layers", list(LAYERS))],
        pooling=trial.suggest_categorical("pooling", ["cls", "mean", "max"]),
        C=trial.suggest_float("C", 0.01, 100, log=True),
    )
    return cross_val_score(model, train["text"], train["label"], cv=3).mean()


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=25)
print(study.best_params, f"{study.best_value:.3f}")

# %%
# Twenty-five trials of three folds, and each text went through BERT once for each pooling.

cache_info()

# %%

trials = study.trials_dataframe()
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
for pooling, rows in trials.groupby("params_pooling"):
    axes.scatter(rows["params_C"], rows["value"], label=pooling)
axes.set(xscale="log", xlabel="C", ylabel="accuracy, three folds")
axes.legend(title="pooling")
plt.show()

# %%
# The best of many is optimistic. Texts that the search has not seen say how good it is.

best = dict(study.best_params)
model = make_sentiment_pipeline(**{**best, "layers": LAYERS[best["layers"]]})
print(f"test {model.fit(train['text'], train['label']).score(test['text'], test['label']):.3f}")
