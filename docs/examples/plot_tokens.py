"""
Token vectors and tagging
=========================

``transform_tokens`` gives a vector for each word instead of one for each text. With a classifier on
these vectors, a frozen BERT tags words: here, what a review is about.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from pipeline import BertVectorizer

# %%
# Two dozen sentences in which the thing that is judged is marked by stars.

marked = """
The *soup* was cold. | Our *waiter* forgot us twice. | I loved the *terrace* in the evening.
The *battery* died after a week. | A bright *screen* and a fair price. | The *handle* broke off.
Such a lovely *film*! | The *plot* made no sense at all. | Great *music* from start to end.
Our *room* smelled of smoke. | The *view* was worth the money. | Nobody answered at the *reception*.
This *app* crashes every day. | The new *update* lost my notes. | I could not find the *settings*.
We ate a superb *fish* by the sea. | The *bread* was stale. | Their *coffee* is the best in town.
The *zip* of this jacket jams. | After a month the *paint* came off. | Good *sound* for its size.
The *actors* looked bored. | I slept badly: the *bed* creaks. | A slow *lift* but kind people.
""".replace("\n", " | ")
sentences = [sentence.strip().split() for sentence in marked.split(" | ") if sentence.strip()]
words = [[word.strip("*.!,:").replace("*", "") for word in sentence] for sentence in sentences]
tags = np.array(["*" in word for sentence in sentences for word in sentence])

# %%
# A list of lists is text that is split into words already; each word has one row, in this order.

bert = BertVectorizer(layers=(-3, -2)).fit([" ".join(sentence) for sentence in words])
table = bert.transform_tokens(words, level="word")
features = table.filter(like="layer").to_numpy()
table.iloc[:6, :6]

# %%
# Train on twenty sentences, and tag the rest and some new ones.

learnt = table["text"] < 20
tagger = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000)
tagger.fit(features[learnt], tags[learnt])
print(
    f"words of the other sentences that are tagged right: "
    f"{tagger.score(features[~learnt], tags[~learnt]):.2f}"
)

new = ["The pillow was too soft", "Their camera is blurry", "We adored the dessert"]
rows = bert.transform_tokens([text.split() for text in new], level="word")
rows["tag"] = tagger.predict_proba(rows.filter(like="layer").to_numpy())[:, 1].round(2)
rows[["text", "word", "tag"]]

# %%
# The vectors in two dimensions: what is judged lies together.

points = pd.DataFrame(PCA(2, random_state=0).fit_transform(features), columns=["x", "y"])
figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
axes.scatter(points["x"], points["y"], c=np.where(tags, "C1", "lightgrey"), s=18)
for i in np.flatnonzero(tags):
    axes.annotate(table["word"][i], points.loc[i], fontsize=8)
axes.set(xticks=[], yticks=[])
plt.show()
