"""What inspect and verify print: refused names stand out, and nothing in a file steers the terminal."""

from pathlib import Path

from pipeline.printing import describe_inspection, describe_verification

FOUND = {
    "path": "m.joblib",
    "format": "joblib",
    "size": 91_348_212,
    "names": ["sklearn.pipeline.Pipeline", "os.system"],
    "refused": [],
    "arrays": [],
    "contents": {"class": "sklearn.pipeline.Pipeline", "steps": [["clf", {"class": "X", "layers_": [0, 1]}]], "memory": None},
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
    "probes": {"method": "predict_proba", "inputs": ["A film."], "outputs": [[0.123456, 0.876544]], "tolerance": 0.001},
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
    text = told(names=[evil], refused=[evil], contents={evil: [evil]}, manifest={**MANIFEST, "created": evil})
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
