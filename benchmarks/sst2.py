"""Train on SST-2 train, score on SST-2 test: the default pipeline beside TF-IDF and the majority
class.

    python -m benchmarks.sst2 sst2.csv

The file has the columns text, label and split (full sentences of the Stanford Sentiment Treebank:
6,920 train, 1,821 test). Nothing is tuned on it: the defaults come from choose_defaults.py, which
never sees a test row. Writes results/sst2.json.
"""

import argparse
import time
from pathlib import Path

from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.results_file import write_result
from pipeline import evaluate, make_sentiment_pipeline, read_table
from pipeline.evaluation.baselines import make_tfidf_baseline

MODELS = {
    "majority class": DummyClassifier(strategy="most_frequent"),
    "TF-IDF + LogisticRegression, scikit-learn's defaults": make_pipeline(
        TfidfVectorizer(), LogisticRegression(max_iter=1000)
    ),
    "TF-IDF + LogisticRegression, tuned": make_tfidf_baseline(),
    "default model, last layer [CLS]": make_sentiment_pipeline(pooling="cls", layers=-1),
    "default model, last layer mean": make_sentiment_pipeline(pooling="mean", layers=-1),
    "default model, mean of all layers (combine='mean')": make_sentiment_pipeline(combine="mean"),
    "default model, learned mix of all layers (combine='learned')": make_sentiment_pipeline(
        combine="learned"
    ),
    "default pipeline (mean of all layers, concatenated)": make_sentiment_pipeline(),
}


def main() -> None:
    """Fit and score every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    table = read_table(parser.parse_args().file, columns=["text", "label", "split"])
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    rows = []
    for name, model in MODELS.items():
        start = time.perf_counter()
        model.fit(train["text"], train["label"])
        seconds = time.perf_counter() - start
        scores = evaluate(model, test["text"], test["label"])
        rows.append(
            {
                "model": name,
                **{m: round(scores[m], 4) for m in ("accuracy", "f1", "roc_auc")},
                "fit_seconds": round(seconds, 1),
            }
        )
        print(rows[-1], flush=True)
    write_result("sst2", rows)


if __name__ == "__main__":
    main()
