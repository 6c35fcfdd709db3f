"""
First classifier
================

Texts go in as strings, and labels come out. Between them stand a frozen BERT, which turns each
text into a vector, and a LogisticRegression, which is all that is trained.
"""

# sphinx_gallery_thumbnail_path = 'figures/words_light.png'
from pipeline import explain, load_reviews, make_sentiment_pipeline

train, test = load_reviews()
train.head()

# %%
# It is a scikit-learn ``Pipeline``. Fitting takes a few seconds, for each text is encoded once.

model = make_sentiment_pipeline()
model.fit(train["text"], train["label"])

# %%
# On texts that it has not seen:

print(f"accuracy {model.score(test['text'], test['label']):.3f}")

# %%
# And on new ones. ``explain`` shows what each word added to the decision.

texts = ["A witty, lovely film.", "Rude staff, dirty room.", "Cold soup, but kind waiters."]
print(model.predict(texts))

# %%

explain(model, texts)
