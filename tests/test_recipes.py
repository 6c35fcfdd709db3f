"""The recipes of docs/scaling-out.md: each block runs as it stands there, but for its paths, where
its engine is installed.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import load_reviews, save_pipeline

TOP = Path(__file__).resolve().parent.parent
PAGE = (TOP / "docs" / "scaling-out.md").read_text(encoding="utf-8")
SECONDS = 300


def recipe(word, folder):
    """Return the block of the page that has the word in it, with the folder for shared storage."""
    (block,) = (block for block in re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL) if word in block)
    assert "load_pipeline(" in block
    return block.replace("/shared/", f"{folder}/")


@pytest.mark.parametrize(("package", "word"), [("ray", "ray.data"), ("pyspark", "mapInPandas")])
def test_the_recipe_labels_every_row_as_the_pipeline_does(package, word, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(
            f"{package} is not installed: pip install "
            f"{package}{'[data]' if package == 'ray' else ''}"
        )
    if package == "pyspark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    train, test = load_reviews()
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        train["text"], train["label"]
    )
    save_pipeline(model, tmp_path / "sentiment.joblib")
    (tmp_path / "reviews").mkdir()
    for number, rows in enumerate((test[:150], test[150:])):
        rows[["text"]].to_parquet(tmp_path / "reviews" / f"{number}.parquet", index=False)
    (tmp_path / "recipe.py").write_text(recipe(word, tmp_path))
    environment = {
        **os.environ, "PYTHONPATH": str(TOP), "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled",
        "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "recipe.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "scored").sort_values("text", ignore_index=True)
    expected = test[["text"]].sort_values("text", ignore_index=True)
    assert found["text"].tolist() == expected["text"].tolist()
    assert found["label"].tolist() == model.predict(expected["text"]).tolist()
