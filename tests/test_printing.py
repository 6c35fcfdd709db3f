"""What the commands print: refused names, escaped texts, verdicts."""

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.commands.printing import describe_inspection, describe_verification, print_comparison

FOUND = {
    "path": "m.joblib",
    "format": "joblib",
    "size": 91_348_212,
    "names": ["sklearn.pipeline.Pipeline", "os.system"],
    "refused": [],
    "arrays": [],
    "contents": {
        "class": "sklearn.pipeline.Pipeline",
        "steps": [["clf", {"class": "X", "layers_": [0, 1]}]],
        "memory": None,
    },
    "manifest": None,
}
MANIFEST = {
    "sha256": "ab" * 32,
    "created": "2026-11-22",
    "classes": ["no", "yes"],
    "n_training_texts": 8,
    "scores": None,
    "versions": {"torch": "2.13.0"},
    "vectorizers": [{"model": "acme/bert", "layers": [0, 1]}],
    "probes": {
        "method": "predict_proba",
        "inputs": ["A film."],
        "outputs": [[0.123456, 0.876544]],
        "tolerance": 0.001,
    },
}


def told(**changes):
    return "\n".join(describe_inspection({**FOUND, **changes}))


def test_a_file_is_told_with_its_names_and_its_contents():
    assert told() == (
        "m.joblib: joblib, 91.3 MB\n"
        "names     2, all allowed\n"
        "          sklearn.pipeline.Pipeline\n"
        "          os.system\n"
        "manifest  none\n"
        "contents\n"
        "  class: sklearn.pipeline.Pipeline\n"
        "  steps:\n"
        "    -\n"
        "      - clf\n"
        "      -\n"
        "        class: X\n"
        "        layers_: [0, 1]\n"
        "  memory: None"
    )


def test_refused_names_stand_out():
    text = told(refused=["os.system"])
    assert "REFUSED   os.system: load_pipeline will not open this file" in text
    assert "os.system <- REFUSED" in text
    assert "all allowed" not in text


def test_without_skops_nobody_says_that_all_is_allowed():
    assert "known only where skops is installed" in told(refused=None, format="skops")


def test_the_manifest_is_told():
    text = told(manifest=MANIFEST)
    for part in (
        "classes: ['no', 'yes']",
        "n_training_texts: 8",
        "torch 2.13.0",
        "model: acme/bert",
        "[0.1235, 0.8765]  A film.",
    ):
        assert part in text
    assert "no self-test" in told(manifest={**MANIFEST, "probes": None})
    assert "manifest  it is damaged" in told(manifest={"error": "it is damaged"})


def test_nothing_in_a_file_steers_the_terminal():
    evil = "\x1b[2J\x1b]0;title\x07 \u202egpj.exe\r\nnames     0, all allowed"
    text = told(
        names=[evil],
        refused=[evil],
        contents={evil: [evil]},
        manifest={**MANIFEST, "created": evil},
    )
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\nnames     0" not in text
    assert "\\x1b[2J" in text


def test_a_verification_is_told_check_by_check():
    found = {
        "size": 10,
        "sha256": "ab" * 32,
        "names": 7,
        "weights": {"acme/bert": "cd" * 32},
        "versions": ["torch 2.1, here 2.13"],
        "probes": {"n": 3, "difference": 2.1e-7, "tolerance": 0.001},
    }
    lines = list(describe_verification(Path("m.joblib"), found))
    assert lines[0] == "m.joblib: whole and as it was saved"
    assert lines[-1] == "  probes    3 answered as when it was saved, to 2e-07 (allowed 0.001)"
    assert "torch 2.1, here 2.13" in "\n".join(lines)
    assert "no self-test" in list(describe_verification(Path("m"), {**found, "probes": None}))[-1]


def test_a_comparison_is_told_with_what_is_known_alone():
    rows = {
        "TF-IDF": {"accuracy": 0.8, "roc_auc": np.nan, "difference": 0.0, "difference_low": 0.0,
                   "difference_high": 0.0, "verdict": "baseline", "fit_seconds": 0.004},
        "BERT": {"accuracy": 0.75, "roc_auc": 0.9, "difference": -0.05, "difference_low": -0.08,
                 "difference_high": -0.02, "verdict": "worse than TF-IDF", "fit_seconds": 1234.5},
    }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").assign(
        macro_f1=0.5,
        balanced_accuracy=0.6,
        log_loss=0.6,
        calibration_error=0.04,
        predict_seconds=np.nan,
        artifact_mb=np.nan,
    )
    for metric in ("accuracy", "macro_f1", "roc_auc", "log_loss"):
        table[f"{metric}_sd"] = np.nan
    table.attrs["left_out"] = {"word2vec": "gensim is not installed"}
    out = io.StringIO()
    print_comparison(Console(file=out, width=160), table, "A title")
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.getvalue().splitlines()]
    assert ["TF-IDF", "0.800", "0.500", "0.600", "-", "0.600"] in lines
    assert ["BERT", "0.750", "0.500", "0.600", "0.900", "0.600"] in lines
    assert ["BERT", "-5.0 (-8.0 to -2.0)", "worse than TF-IDF"] in lines
    assert ["TF-IDF", "baseline"] in lines
    assert ["model", "calibration", "fit, s"] in lines  # no column of what was not measured
    assert ["TF-IDF", "0.040", "< 0.01"] in lines
    assert ["BERT", "0.040", "1,234"] in lines
    assert "Left out: word2vec (gensim is not installed)." in out.getvalue()
    longest = table.rename({"BERT": "word2vec mean + LogisticRegression"}).assign(
        accuracy_sd=0.012, verdict="no clear difference"
    )
    usual = io.StringIO()
    print_comparison(Console(file=usual, width=80), longest, "A title")
    assert (
        usual.getvalue().count("word2vec mean + LogisticRegression") == 3
    )  # no name is broken in a terminal of 80 columns
    narrow = io.StringIO()
    print_comparison(Console(file=narrow, width=60), table, "A title")
    assert "…" not in narrow.getvalue()
