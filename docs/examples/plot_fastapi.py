"""
Serving with FastAPI
====================

A saved pipeline opens in a fraction of a second and answers a short text in milliseconds, so that a
small web service needs nothing else. Here it is `FastAPI <https://fastapi.tiangolo.com>`_, called
by its test client instead of over a network.
"""

import tempfile
import time

import matplotlib.pyplot as plt
from fastapi import FastAPI
from fastapi.testclient import TestClient

from pipeline import load_pipeline, load_reviews, make_sentiment_pipeline, save_pipeline

train, test = load_reviews()
model = make_sentiment_pipeline().fit(train["text"], train["label"])
path = save_pipeline(model, f"{tempfile.mkdtemp()}/sentiment.joblib")

# %%
# The service opens the file once, when it starts. ``load_pipeline`` checks it before anything in it
# is run. FastAPI runs plain functions in threads, and the pipeline may be called by several.

app = FastAPI()
served = load_pipeline(path)


@app.post("/predict")
def predict(texts: list[str]) -> list[dict]:
    """Return the label of each text and its probability."""
    labels, probability = served.predict(texts), served.predict_proba(texts).max(axis=1)
    return [
        {"label": str(label), "probability": round(float(p), 3)}
        for label, p in zip(labels, probability, strict=True)
    ]


# %%
# In production ``uvicorn service:app`` starts it. Its answer to two texts:

client = TestClient(app)
client.post("/predict", json=["A witty, lovely film.", "Cold soup."]).json()

# %%
# How long does a call with one text take, with all that is around it?

milliseconds = []
for text in test["text"][:200]:
    start = time.perf_counter()
    client.post("/predict", json=[text])
    milliseconds.append(1000 * (time.perf_counter() - start))

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.hist(milliseconds, bins=40)
axes.set(xlabel="milliseconds per call", ylabel="calls")
plt.show()
