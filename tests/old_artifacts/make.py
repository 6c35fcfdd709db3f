"""Write saved pipelines: python -m tests.old_artifacts.make v2, or finetuned-v1."""

import contextlib
import sys
import tempfile
from pathlib import Path

from sklearn.pipeline import Pipeline, make_pipeline

from pipeline import FineTunedBertClassifier, make_sentiment_pipeline, save_pipeline
from tests.conftest import CORPUS, build_model

HERE = Path(__file__).resolve().parent
LABELS = ["positive", "negative", "negative", "positive", "positive", "positive"]


def make(name: str) -> None:
    """Save a pipeline in both formats; a relative model folder keeps paths out of it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        build_model(Path("tiny-bert"), "bert", seed=1, n_layers=2)
        model = finetuned() if name.startswith("finetuned-") else frozen(name)
        for extension in ("joblib", "skops"):
            path = HERE / f"{name}.{extension}"
            if path.exists():
                raise FileExistsError(f"{path.name} is there; old files are never changed.")
            columns = {"text": "text", "label": "label"}
            save_pipeline(model, path, format=extension, scores={"none": 0.0}, columns=columns)


def frozen(name: str) -> Pipeline:
    """Fit a BertVectorizer, with a prompt since v2, and a LogisticRegression."""
    prompt = None if name == "v1" else "A film: "
    model = make_sentiment_pipeline(model="tiny-bert", layers=(0, 1), prompt=prompt)
    return model.fit(CORPUS, LABELS)


def finetuned() -> Pipeline:
    """Train a FineTunedBertClassifier until it says something."""
    rates = {"learning_rate": 3e-3, "head_learning_rate": 2e-2}
    model = FineTunedBertClassifier(
        "tiny-bert", max_length=None, epochs=5, batch_size=2, random_state=0, **rates
    )
    return make_pipeline(model).fit(CORPUS, LABELS)


if __name__ == "__main__":
    make(sys.argv[1])
