"""
Another language
================

The default model was made for English. It reads other languages piece by piece, and some of them
not at all. ``fit`` says so, and the counts show how bad it is.
"""

import warnings

import matplotlib.pyplot as plt
import pandas as pd

from pipeline import BertVectorizer
from pipeline.checkpoints.catalogue import catalogue

texts = {
    "English": ["The room was quiet and the view was lovely.", "We waited an hour for cold soup."],
    "French": ["La chambre était calme et la vue superbe.", "Une heure d'attente pour une soupe."],
    "German": [
        "Das Zimmer war ruhig und die Aussicht schön.",
        "Eine Stunde Warten auf kalte Suppe.",
    ],
    "Russian": ["Номер был тихий и светлый.", "Мы ждали холодный суп целый час."],
    "Korean": ["방이 조용하고 전망이 아름다웠어요.", "식은 수프를 한 시간이나 기다렸습니다."],
    "Thai": ["ห้องเงียบและวิวสวยมาก", "เรารอซุปเย็นหนึ่งชั่วโมง"],
}

# %%
# A model that does not know the script warns, and names the cure.

for language, own in texts.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BertVectorizer().fit(own)
    print(f"{language}: {caught[0].message if caught else 'no warning'}\n")

# %%
# Pieces per word: 1.2 to 1.5 is what a model has for its own language. Words that are spelt out
# letter by letter have no meaning for it. Thai has one piece per word, for the model reads each of
# these words as [UNK], unknown.

rows = {}
for language, own in texts.items():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows[language] = BertVectorizer().fit(own).unknown_report_
reports = pd.DataFrame(rows).T
reports[["n_words", "pieces_per_word", "share_unknown"]].round(2)

# %%

figure, axes = plt.subplots(figsize=(6, 2.8), layout="constrained")
axes.barh(reports.index[::-1], reports["pieces_per_word"][::-1])
axes.axvspan(1.2, 1.5, color="grey", alpha=0.3)
axes.set_xlabel("pieces per word; grey: a model's own language")
plt.show()

# %%
# The cure is a model of that language, or of many: ``BertVectorizer(model=...)``.

models = pd.DataFrame([(m.model, m.languages) for m in catalogue()], columns=["model", "languages"])
models[models["languages"] != "English"].reset_index(drop=True)
