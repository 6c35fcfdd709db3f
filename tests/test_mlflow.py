"""MLflow: log_model at its defaults (a skops file since MLflow 3.17) and back."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="needs the extra 'mlflow'"
)
TOP = Path(__file__).resolve().parent.parent
LOG_AND_LOAD = """
import sys
import mlflow
import numpy as np
from pipeline import make_sentiment_pipeline
from tests.conftest import TEXTS

labels = ["no", "yes"] * 5 + ["no"]
model = make_sentiment_pipeline(model=sys.argv[1], cache=None).fit(TEXTS, labels)
with mlflow.start_run():
    trusted = ["pipeline.vectorizer.BertVectorizer"]
    logged = mlflow.sklearn.log_model(model, name="sentiment", skops_trusted_types=trusted)
loaded = mlflow.sklearn.load_model(logged.model_uri)
print(np.array_equal(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS)))
general = mlflow.pyfunc.load_model(logged.model_uri)
print(general.predict(TEXTS).tolist() == model.predict(TEXTS).tolist())
"""


@pytest.mark.thorough
def test_a_pipeline_that_was_logged_comes_back_with_the_same_bits(tiny_bert, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(TOP),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": (tmp_path / "runs").as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    run = subprocess.run(
        [sys.executable, "-c", LOG_AND_LOAD, tiny_bert],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True", "True"]
    assert [path.name for path in tmp_path.rglob("model.skops")] == ["model.skops"]
