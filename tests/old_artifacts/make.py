"""Write the saved pipelines of the present format: python -m tests.old_artifacts.make v1."""

import contextlib
import sys
import tempfile
from pathlib import Path

from pipeline import make_sentiment_pipeline, save_pipeline
from tests.conftest import CORPUS, build_model

HERE = Path(__file__).resolve().parent


def make(name: str) -> None:
    """Save one fitted pipeline in both formats; its model is named by a relative folder, so no path of a machine is in it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        build_model(Path("tiny-bert"), "bert", seed=1, n_layers=2)
        labels = ["positive", "negative", "negative", "positive", "positive", "positive"]
        model = make_sentiment_pipeline(model="tiny-bert", layers=(0, 1)).fit(CORPUS, labels)
        for extension in ("joblib", "skops"):
            path = HERE / f"{name}.{extension}"
            if path.exists():
                raise FileExistsError(f"{path.name} is there; old files are never changed.")
            save_pipeline(model, path, format=extension, scores={"none": 0.0})


if __name__ == "__main__":
    make(sys.argv[1])
