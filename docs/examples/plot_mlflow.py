"""
Runs and models with MLflow
===========================

`MLflow <https://mlflow.org>`_ keeps parameters, scores and models of each run. A pipeline is logged
as any of scikit-learn, as a skops file, which runs no code when it is opened.
"""

import logging
import os
import tempfile

import matplotlib.pyplot as plt

from pipeline import load_reviews, make_sentiment_pipeline

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
import mlflow

reviews, test = load_reviews()
train = reviews.sample(500, random_state=0)

# %%
# Runs go to a folder here. With a server, this line has its address.

logging.getLogger("mlflow").setLevel(logging.ERROR)
mlflow.set_tracking_uri(f"file://{tempfile.mkdtemp()}")
mlflow.set_experiment("reviews")

# %%
# One run for each choice of layers and ``C``:

for layers in (-1, "all"):
    for C in (0.01, 0.1, 1.0, 10.0):
        with mlflow.start_run():
            model = make_sentiment_pipeline(C=C, layers=layers).fit(train["text"], train["label"])
            mlflow.log_params({"layers": layers, "C": C})
            mlflow.log_metric("accuracy", model.score(test["text"], test["label"]))

runs = mlflow.search_runs()
runs[["params.layers", "params.C", "metrics.accuracy"]].sort_values("metrics.accuracy").round(3)

# %%

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for layers, rows in runs.groupby("params.layers"):
    rows = rows.astype({"params.C": float}).sort_values("params.C")
    axes.plot(rows["params.C"], rows["metrics.accuracy"], "o-", label=f"layers={layers}")
axes.set(xscale="log", xlabel="C", ylabel="accuracy")
axes.legend()
plt.show()

# %%
# The model itself. The class that MLflow does not know has to be named, once.

model = make_sentiment_pipeline().fit(reviews["text"], reviews["label"])
with mlflow.start_run():
    logged = mlflow.sklearn.log_model(
        model, name="sentiment", skops_trusted_types=["pipeline.vectorizer.BertVectorizer"]
    )
loaded = mlflow.pyfunc.load_model(logged.model_uri)
print(loaded.predict(["A quiet, lovely film.", "Cold soup."]))
