"""FineTunedBertClassifier: it learns, the same each time, leaves all else as it was."""

import inspect
import os
import random
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags

from pipeline import (
    ArtifactError,
    BertVectorizer,
    CheckpointError,
    FineTunedBertClassifier,
    TruncationWarning,
    inspect_pipeline,
    load_pipeline,
    save_pipeline,
    verify_pipeline,
)
from pipeline.bert.config import read_shape
from pipeline.bert.training import TrainableBert
from pipeline.bert.weights import read_head, read_tensors
from pipeline.checkpoints.checkpoint import resolve
from pipeline.texts import set_aside

TOP = Path(__file__).resolve().parent.parent
GOOD = ["A quiet, lovely film.", "I love Paris", "beautiful terrace", "lovely days"]
GOOD += ["I love the film", "a beautiful spring"]
BAD = ["Two hours I want back!", "The soup was cold", "the waiter did not care", "cold soup"]
BAD += ["a dull minute", "I want it back"]
X = [*GOOD, *BAD] * 2
Y = (["good"] * 6 + ["bad"] * 6) * 2
# The tiny model's vocabulary comes out in another order in every process, so what is learnt here
# must not hang on luck.
QUICK = {"max_length": None, "epochs": 20, "batch_size": 8, "random_state": 0}
QUICK |= {"learning_rate": 3e-3, "head_learning_rate": 2e-2}
SHORT = {**QUICK, "epochs": 1}


def classifier(model, **parameters):
    return FineTunedBertClassifier(model, **{**QUICK, **parameters})


def short(model, y=Y, **parameters):
    return classifier(model, **{**SHORT, **parameters}).fit(X, y)


def in_threads(call, n_threads):
    """Return what each of some threads gets."""
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(lambda _: call(), range(n_threads)))


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return classifier(tiny_bert, dropout=0.0).fit(X, Y)


def encoder_tensors(checkpoint):
    shapes = {name: entry["shape"] for name, entry in checkpoint.tensor_table().items()}
    own = {name: shape for name, shape in shapes.items() if not name.startswith("head.")}
    return read_tensors(checkpoint, read_shape(checkpoint).family, own)


def changed(model, folder):
    """Name the encoder's tensors that training changed."""
    before = encoder_tensors(resolve(folder))
    now = encoder_tensors(model.__dict__["_checkpoint"])
    return {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}


# ---- it learns


def test_it_learns_what_can_be_learnt(fitted):
    assert fitted.score(X, Y) == 1.0
    assert [row["epoch"] for row in fitted.history_] == list(range(1, 21))
    assert fitted.history_[-1]["loss"] < 0.5 * fitted.history_[0]["loss"]
    assert (fitted.n_epochs_, fitted.best_epoch_) == (20, 20)
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (24, 2)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert list(fitted.classes_) == ["bad", "good"]


def test_probabilities_are_those_of_transformers_own_forward(fitted, tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    model = type(oracle.model)(oracle.model.config).eval()
    checkpoint = fitted.__dict__["_checkpoint"]
    missing = model.load_state_dict(encoder_tensors(checkpoint), strict=False)
    assert all(name.startswith("pooler.") for name in missing.missing_keys)
    assert not missing.unexpected_keys
    weight, bias = read_head(checkpoint, 2, 32)
    for text in ["I love the cold soup", "", "Überraschend gut."]:
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([oracle.ids(text)])).last_hidden_state[0]
        expected = softmax(states.mean(dim=0).double().numpy() @ weight.T + bias)
        assert np.abs(fitted.predict_proba([text])[0] - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([0, 1] * 12), [0, 1]),
        (np.array([True, False] * 12), [False, True]),
        (pd.Series(["a", "b", "c"] * 8, dtype="category"), ["a", "b", "c"]),
        (pd.Series(["no", "yes"] * 12), ["no", "yes"]),
        ([3, 1, 2, 7] * 6, [1, 2, 3, 7]),
    ],
    ids=["int", "bool", "category", "series", "four classes"],
)
def test_labels_of_every_kind_come_back_as_they_are(labels, classes, tiny_bert):
    model = short(tiny_bert, labels)
    assert model.classes_.tolist() == classes
    assert model.predict_proba(X).shape == (24, len(classes))
    assert set(model.predict(X).tolist()) <= set(classes)


# ---- the same each time, and nothing else is changed


def test_two_fits_and_a_clone_give_the_same_bits_and_another_seed_others(tiny_bert):
    first = short(tiny_bert)
    expected = first.predict_proba(X)
    torch.manual_seed(99)  # what the process drew before does not count
    assert np.array_equal(clone(first).fit(X, Y).predict_proba(X), expected)
    assert np.array_equal(first.fit(X, Y).predict_proba(X), expected)
    other = clone(first).set_params(random_state=1).fit(X, Y)
    assert not np.array_equal(other.predict_proba(X), expected)


def test_two_threads_that_fit_at_the_same_time_get_what_one_gets(tiny_bert):
    expected = short(tiny_bert).predict_proba(X)
    found = in_threads(lambda: short(tiny_bert).predict_proba(X), 2)
    # seeds that get mixed up show in the second digit; BLAS promises no bits while others compute
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-6)


def test_fit_leaves_the_process_as_it_was(tiny_bert, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002

    def state():
        threads = torch.get_num_threads(), torch.get_num_interop_threads()
        seeds = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return seeds, modes, threads, dict(os.environ)

    with torch.no_grad():  # training wants gradients whatever its caller wants
        before = state()
        short(tiny_bert)
        assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert "".join(capfd.readouterr()) == ""


def test_the_pretrained_model_is_not_touched(tiny_bert):
    def files():
        return {path.name: path.read_bytes() for path in Path(tiny_bert).iterdir()}

    before = files()
    vectorizer = BertVectorizer(tiny_bert, layers="all", cache=None).fit(X)
    features = vectorizer.transform(X)
    model = short(tiny_bert)
    assert changed(model, tiny_bert)
    assert files() == before
    assert np.array_equal(vectorizer.transform(X), features)
    assert np.array_equal(clone(vectorizer).fit_transform(X), features)


def test_head_only_changes_the_head_alone(tiny_bert):
    model = short(tiny_bert, head_only=True)
    assert changed(model, tiny_bert) == set()
    frozen = BertVectorizer(tiny_bert).fit_transform(X).astype(np.float64)
    weight, bias = read_head(model.__dict__["_checkpoint"], 2, 32)
    expected = softmax(frozen @ weight.T + bias, axis=1)
    assert np.allclose(model.predict_proba(X), expected, atol=1e-6)


def test_unfrozen_layers_changes_the_top_alone(tiny_bert):
    names = changed(short(tiny_bert, unfrozen_layers=1), tiny_bert)
    assert names
    assert all(name.startswith("encoder.layer.2.") for name in names)
    everything = changed(short(tiny_bert), tiny_bert)
    assert any(name.startswith("embeddings.") for name in everything)
    assert any(name.startswith("encoder.layer.0.") for name in everything)


# ---- weights of classes, early stopping, truncation, progress


def test_balanced_is_the_dict_it_stands_for(tiny_bert):
    labels = ["a"] * 18 + ["b"] * 6
    plain, balanced, given = (
        short(tiny_bert, labels, class_weight=weight).predict_proba(X)
        for weight in (None, "balanced", {"a": 24 / (2 * 18), "b": 24 / (2 * 6)})
    )
    assert np.array_equal(balanced, given)
    assert balanced[:, 1].mean() > plain[:, 1].mean()


def test_early_stopping_stops_and_keeps_the_best(tiny_bert):
    noise = np.random.default_rng(0).permutation(["good", "bad"] * 12)
    options = {"early_stopping": True, "patience": 1, "validation_fraction": 0.25}
    model = classifier(tiny_bert, epochs=12, **options).fit(X, noise)
    assert model.n_epochs_ < 12
    assert model.n_epochs_ == model.best_epoch_ + 1
    scores = [(row["val_accuracy"], -row["val_loss"]) for row in model.history_]
    assert scores.index(max(scores)) + 1 == model.best_epoch_
    # the weights are those of the best epoch, not of the last: their loss on what was set aside is
    # the one of that epoch
    codes = np.unique(noise, return_inverse=True)[1]
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    aside = set_aside(codes, model.classes_, 0.25, seed)[1]
    chosen = model.predict_proba([X[i] for i in aside])[np.arange(len(aside)), codes[aside]]
    assert -np.log(chosen).mean() == pytest.approx(
        model.history_[model.best_epoch_ - 1]["val_loss"], abs=1e-4
    )


def test_what_is_cut_is_told_in_fit_and_in_predict(tiny_bert):
    message = r"\d+ of 24 texts are longer than max_length=5 tokens.*Raise max_length"
    with pytest.warns(TruncationWarning, match=message):
        model = short(tiny_bert, max_length=5)
    assert model.truncation_report_["texts_cut"] > 0
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        model.predict(["A quiet, lovely film that stayed with me for days."])
    with pytest.raises(ValueError, match="truncation='error'"):
        short(tiny_bert, max_length=5, truncation="error")


def test_a_progress_bar_is_shown_where_asked_for(tiny_bert, capfd):
    short(tiny_bert, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "fine-tuning: 100%" in shown.err


# ---- scikit-learn's contract


def test_init_stores_and_tags_tell(tiny_bert):
    model = FineTunedBertClassifier("nowhere", epochs=-1, class_weight="nonsense")
    assert set(model.__dict__) == set(model.get_params())
    assert is_classifier(model)
    tags = get_tags(model)
    assert tags.input_tags.string
    assert tags.target_tags.required
    documented = set(inspect.signature(FineTunedBertClassifier).parameters)
    assert documented == set(FineTunedBertClassifier._parameter_constraints)


@pytest.mark.parametrize(
    "name",
    """check_parameters_default_constructible check_no_attributes_set_in_init
    check_get_params_invariance check_set_params check_estimator_repr check_estimator_cloneable
    check_valid_tag_types check_estimator_tags_renamed check_param_validation
    check_estimators_unfitted""".split(),
)
def test_those_checks_of_scikit_learn_pass_that_need_no_numbers(name, tiny_bert):
    getattr(estimator_checks, name)("FineTunedBertClassifier", FineTunedBertClassifier(tiny_bert))


def test_grid_search_and_cross_validation_run(tiny_bert):
    model = classifier(tiny_bert, **SHORT)
    search = GridSearchCV(model, {"pooling": ["mean", "cls"]}, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.predict(X).shape == (24,)
    series = pd.Series(X), pd.Series(Y)
    assert cross_val_score(make_pipeline(model), *series, cv=2, scoring="roc_auc").shape == (2,)


def test_a_prediction_does_not_depend_on_its_neighbours_or_on_threads(fitted):
    texts = [*X, "a " * 30, ""]
    together = fitted.predict_proba(texts)
    alone = np.vstack([fitted.predict_proba([text]) for text in texts])
    assert np.abs(together - alone).max() <= 1e-5
    found = in_threads(lambda: fitted.predict_proba(texts), 4)
    assert all(np.abs(one - together).max() <= 1e-6 for one in found)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good"] * 24, "y holds only one class, 'good'"),
        ([1.0] * 24, "y holds only one class, 1.0"),
        ([*Y[:-1], None], "Input y contains NaN: label 23 is None"),
        (Y[:-1], "inconsistent numbers of samples"),
        (np.linspace(0, 1, 24), "is regression"),
        (None, "requires y to be passed"),
    ],
)
def test_wrong_labels_are_refused_before_a_model_is_looked_for(labels, message):
    with pytest.raises(ValueError, match=message):
        FineTunedBertClassifier("no/such-model", local_files_only=True).fit(X, labels)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": 0}, "'epochs' parameter .* must be an int in the range \\[1, inf\\)"),
        ({"pooling": "pooler"}, "'pooling' parameter"),
        ({"learning_rate": 0}, "'learning_rate' parameter"),
        ({"unfrozen_layers": 0}, "'unfrozen_layers' parameter"),
        ({"unfrozen_layers": 4}, "unfrozen_layers=4.* has 3 layers; allowed are 1 to 3, or None"),
        ({"head_only": True, "unfrozen_layers": 1}, "head_only=True trains no layer"),
        ({"max_length": 65}, "max_length=65, but .* has positions for 64 tokens"),
        ({"device": "abacus"}, "device='abacus' is not available .* cpu"),
        (
            {"early_stopping": True, "validation_fraction": 0.01},
            "holds out 1 of 24 texts; with 2 classes allowed are 2 to 22",
        ),
        ({"learning_rate": 1e30}, "The training diverged.*Use a smaller learning_rate than 1e.30"),
    ],
)
def test_wrong_parameters_are_told_with_what_is_allowed(parameters, message, tiny_bert):
    with pytest.raises(ValueError, match=message):
        short(tiny_bert, **parameters)


def test_before_fit_it_says_so(tiny_bert):
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(FineTunedBertClassifier(tiny_bert), method)(X)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        FineTunedBertClassifier(tiny_bert).fit([], [])


def test_without_accelerate_the_message_names_the_extra(tiny_bert, fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[finetune\]'"):
        classifier(tiny_bert).fit(X, Y)
    assert fitted.predict(X[:1]) == ["good"]


# ---- its file


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_saved_classifier_gives_the_same_bits(format, fitted, tmp_path):
    path = save_pipeline(make_pipeline(fitted), tmp_path / f"m.{format}", format=format)
    loaded = load_pipeline(path)
    assert np.array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert np.array_equal(loaded.predict(X), fitted.predict(X))
    assert loaded[0].history_ == fitted.history_
    checked = verify_pipeline(path)
    assert checked["weights"] == {fitted.model: fitted.verify_weights()}
    found = inspect_pipeline(path)
    assert found["refused"] == []
    (told,) = found["manifest"]["vectorizers"]
    assert told["source"] == fitted.source_
    kept = [told[name] for name in ("max_length", "device", "dtype", "pooling")]
    assert kept == [64, "cpu", "float32", "mean"]
    assert found["manifest"]["n_training_texts"] == 24
    again = save_pipeline(loaded, tmp_path / f"again.{format}", format=format)
    assert np.array_equal(load_pipeline(again).predict_proba(X), fitted.predict_proba(X))


def test_a_file_opens_without_the_model_and_without_the_trainer(fitted, tmp_path):
    path = save_pipeline(make_pipeline(fitted), tmp_path / "m.joblib")
    code = (
        "import sys; sys.modules['accelerate'] = None\n"
        "import pipeline.checkpoints.checkpoint as c\n"
        "c.locate = lambda *a, **k: 1 / 0\n"
        "from pipeline import load_pipeline\n"
        f"model = load_pipeline({str(path)!r})\n"
        f"print(model.predict({X[:2]!r}).tolist(), 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP
    )
    assert done.stdout == "['good', 'good'] False\n"


def test_a_flipped_bit_in_the_weights_is_refused(fitted, tmp_path):
    path = save_pipeline(make_pipeline(fitted), tmp_path / "m.joblib")
    content = bytearray(path.read_bytes())
    weights = fitted.__getstate__()["_checkpoint"]["weights"].tobytes()
    content[content.index(weights[-64:]) + 60] ^= 1  # in the last tensor, whichever it is
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        load_pipeline(path)
    loaded = load_pipeline(path, verify="size")
    with pytest.raises(CheckpointError, match="damaged"):
        loaded.predict(X)
    with pytest.raises(CheckpointError, match="damaged"):
        save_pipeline(loaded, tmp_path / "spread.joblib")


def test_a_device_that_is_not_here_is_replaced_with_a_warning(fitted):
    state = fitted.__getstate__()
    moved = FineTunedBertClassifier()
    moved.__setstate__({**state, "device": "cuda:7"})
    with pytest.warns(UserWarning, match="device='cuda:7', which this machine does not have"):
        assert np.array_equal(moved.predict_proba(X), fitted.predict_proba(X))
    assert moved.runs_on()[1] == "float32"


# ---- faults


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError("no memory left")], ids=["Ctrl-C", "memory"]
)
def test_a_training_that_is_interrupted_leaves_the_earlier_one_and_no_file(
    error, tiny_bert, tmp_path, monkeypatch
):
    model = short(tiny_bert)
    expected, weights = model.predict_proba(X), model.verify_weights()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    steps, collate = [], TrainableBert.collate

    def interrupted(module, rows):
        steps.append(len(rows))
        if len(steps) == 3:
            raise error
        return collate(module, rows)

    def state():
        return random.getstate(), torch.get_rng_state().tolist(), torch.is_grad_enabled()

    before = state()
    with monkeypatch.context() as patched:
        patched.setattr(TrainableBert, "collate", interrupted)
        with pytest.raises(type(error)):
            model.fit(X, ["a", "b", "c"] * 8)
    assert state() == before
    assert list(tmp_path.iterdir()) == []
    assert list(model.classes_) == ["bad", "good"]
    assert model.verify_weights() == weights
    assert np.array_equal(model.predict_proba(X), expected)
    again = clone(model).fit(X, Y)  # nobody waits for a lock
    assert np.array_equal(again.predict_proba(X), expected)


def test_who_predicts_while_another_thread_trains_gets_the_same_bits(tiny_bert):
    model = short(tiny_bert)
    vectorizer = BertVectorizer(tiny_bert, cache=None).fit(X)
    expected, features = model.predict_proba(X), vectorizer.transform(X)
    other = classifier(tiny_bert, **{**QUICK, "epochs": 8}, dropout=0.5)
    training = threading.Thread(target=other.fit, args=(X, Y))
    training.start()
    rounds = 0
    while training.is_alive() or rounds == 0:
        assert np.array_equal(model.predict_proba(X), expected)
        assert np.array_equal(vectorizer.transform(X), features)
        rounds += 1
    training.join()
    assert other.score(X, Y) > 0.5


def test_a_head_that_does_not_fit_the_classes_is_refused(fitted):
    state = fitted.__getstate__()
    changed_classes = FineTunedBertClassifier()
    changed_classes.__setstate__({**state, "classes_": np.array(["bad", "fair", "good"])})
    message = r"'head\.weight' has the shape \(3, 32\) in the config and \(2, 32\) in the weights"
    with pytest.raises(CheckpointError, match=message):
        changed_classes.predict(X)


def test_classes_that_look_alike_are_warned_of(tiny_bert):
    with pytest.warns(UserWarning, match="'Good' and 'good' differ by case or blanks only"):
        model = short(tiny_bert, ["Good", "good", "bad"] * 8, head_only=True)
    assert len(model.classes_) == 3
