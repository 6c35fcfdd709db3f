"""What the commands print: refused names, escaped texts, verdicts."""

from pipeline.commands.printing import describe_inspection

FOUND = {
    "path": "m.joblib",
    "format": "joblib",
    "size": 91_348_212,
    "names": ["sklearn.pipeline.Pipeline", "os.system"],
    "refused": [],
    "problems": [],
    "signed_by": None,
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


def test_without_skops_nobody_says_that_all_is_allowed():
    assert "install skops to see" in told(refused=None, format="skops")


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
