"""
Text with numbers and categories
================================

A table often has more than its text. A ``ColumnTransformer`` gives the text to BERT, and numbers
and categories to the steps that are made for them; one classifier sees all of it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from pipeline import BertVectorizer, load_reviews

table, _ = load_reviews()
table = table.sample(600, random_state=0)

# %%
# The reviews have one column more that is of use, ``domain``. A number is added here: a rating of
# one to five stars, from customers who do not always mean what they say.

rng = np.random.default_rng(0)
stars = np.where(table["label"] == "positive", 3.7, 2.3) + rng.normal(0, 1.3, len(table))
table["stars"] = stars.round().clip(1, 5)
table[["text", "domain", "stars", "label"]].head()

# %%
# The vectorizer takes one column, named as a string; the others take lists.

columns = make_column_transformer(
    (BertVectorizer(layers="all"), "text"),
    (OneHotEncoder(), ["domain"]),
    (StandardScaler(), ["stars"]),
)
model = make_pipeline(columns, LogisticRegression(C=0.1, max_iter=2000))
model.fit(table, table["label"])

# %%
# The same folds, with the text alone, the other columns alone, and all of them. The texts are
# encoded once: the vectorizer keeps its vectors.

text, others = columns.transformers[:1], columns.transformers[1:]
scores = {}
for name, transformers in {"other columns": others, "text": text, "all": text + others}.items():
    model.set_params(columntransformer__transformers=transformers)
    scores[name] = cross_val_score(model, table, table["label"], cv=5)
    print(f"{name:13} {scores[name].mean():.3f}")

figure, axes = plt.subplots(figsize=(6, 2.4), layout="constrained")
axes.boxplot(scores.values(), orientation="horizontal", tick_labels=scores.keys())
axes.set_xlabel("accuracy, five folds")
plt.show()
