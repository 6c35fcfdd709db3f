"""
Fine-tuning
===========

``FineTunedBertClassifier`` trains BERT itself. It takes much longer, and is better where there are
thousands of labels. With few of them, or little time, the frozen model is the one to try first.
"""

import time

import matplotlib.pyplot as plt
import pandas as pd

from pipeline import FineTunedBertClassifier, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
train = train.sample(400, random_state=0)

# %%
# It is a classifier: raw texts and labels go in. Some texts are set aside to see when to stop.

start = time.perf_counter()
tuned = FineTunedBertClassifier(epochs=4, max_length=32, early_stopping=True, random_state=0)
tuned.fit(train["text"], train["label"])
print(f"{time.perf_counter() - start:.0f} s, best after epoch {tuned.best_epoch_}")
pd.DataFrame(tuned.history_).round(3)

# %%
# The loss of training goes on falling when that of the texts set aside does not.

history = pd.DataFrame(tuned.history_)
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(history["epoch"], history["loss"], "o-", label="training")
axes.plot(history["epoch"], history["val_loss"], "o-", label="set aside")
axes.set(xlabel="epoch", ylabel="loss", xticks=history["epoch"])
axes.legend()
plt.show()

# %%
# Beside the frozen model, on the same test texts:

start = time.perf_counter()
frozen = make_sentiment_pipeline(cache=None).fit(train["text"], train["label"])
print(f"frozen in {time.perf_counter() - start:.0f} s")
for name, model in {"frozen": frozen, "fine-tuned": tuned}.items():
    print(f"{name:10} accuracy {model.score(test['text'], test['label']):.3f}")
