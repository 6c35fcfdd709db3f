"""BertVectorizer: its vectors equal HF's own, its parameters do what they say."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError

import pipeline.bert.embedding
from pipeline import BertVectorizer, TruncationWarning, clear_cache
from pipeline.bert.packed import PackedEncoder
from pipeline.checkpoints.checkpoint import installed_folder
from pipeline.exceptions import UnknownTokensWarning
from pipeline.layer_mix import learn_layer_mix
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model

TOLERANCE = 1e-5  # the promise: float32 on CPU, whatever the batch


def reference(oracle, texts, layers, pooling, combine, max_length=64):
    """Slow and obvious: one text, one pooling, one layer at a time."""
    rows = []
    for text in texts:
        parts = []
        for p in pooling:
            vectors = [oracle.sentence_vector(text, layer, p, max_length) for layer in layers]
            if combine == "concat":
                parts += vectors
            else:
                parts.append(
                    np.mean(vectors, axis=0) if combine == "mean" else np.sum(vectors, axis=0)
                )
        rows.append(np.concatenate(parts))
    return np.array(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pooling_of_every_layer_equals_hugging_face_one_text_at_a_time(
    family, model_folder, hugging_face
):
    folder = model_folder(family)
    vectorizer = BertVectorizer(folder, pooling=("cls", "mean", "max"), layers="all")
    expected = reference(hugging_face(folder), TEXTS, range(4), ("cls", "mean", "max"), "concat")
    assert np.abs(vectorizer.fit_transform(TEXTS) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("combine", ["concat", "mean", "sum"])
@pytest.mark.parametrize("layers", [-1, 0, 2, (-2, -1), (3, 0), "all"])
def test_layers_are_combined_as_the_slow_reference_does(combine, layers, tiny_bert, hugging_face):
    asked = {"all": (0, 1, 2, 3), -1: (3,), (-2, -1): (2, 3)}.get(
        layers, layers if isinstance(layers, tuple) else (layers,)
    )
    features = BertVectorizer(
        tiny_bert, layers=layers, combine=combine, pooling=("max", "cls")
    ).fit_transform(TEXTS)
    expected = reference(hugging_face(tiny_bert), TEXTS, asked, ("max", "cls"), combine)
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() <= TOLERANCE


@pytest.mark.parametrize("batch_tokens", [1, 7, 64, 100_000, 10**9])
def test_the_size_of_a_batch_changes_nothing(batch_tokens, tiny_bert, hugging_face):
    features = BertVectorizer(tiny_bert, batch_tokens=batch_tokens).fit_transform(TEXTS)
    assert (
        np.abs(
            features - reference(hugging_face(tiny_bert), TEXTS, (3,), ("mean",), "concat")
        ).max()
        <= TOLERANCE
    )


def test_the_default_model_equals_hugging_face(hugging_face):
    folder = str(installed_folder(DEFAULT_MODEL))
    texts = [
        "I love Paris",
        "",
        "Überraschend gut 😀",
        "don't",
        "word " * 300,
        "A quiet, lovely film.",
        "东京",
    ]
    vectorizer = BertVectorizer(pooling=("cls", "mean", "max"), layers="all")
    with pytest.warns(UnknownTokensWarning, match="More than 20% of the texts"):
        features = vectorizer.fit_transform(texts)
    expected = reference(
        hugging_face(folder), texts, range(7), ("cls", "mean", "max"), "concat", max_length=512
    )
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() <= TOLERANCE


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_only_the_layers_up_to_the_deepest_asked_for_are_run(family, model_folder, monkeypatch):
    loaded = []
    load = pipeline.bert.embedding.load_encoder
    monkeypatch.setattr(
        "pipeline.bert.embedding.load_encoder",
        lambda *a, **k: loaded.append(load(*a, **k)) or loaded[-1],
    )
    BertVectorizer(model_folder(family), layers=(0, 1), cache=None).fit_transform(["one batch"])
    assert [encoder.depth for encoder in loaded] == [1]


def test_each_distinct_text_is_encoded_once_per_call(tiny_bert, encoded):
    features = BertVectorizer(tiny_bert).fit_transform(["same", "other", "same", "same"])
    assert sum(encoded) == 2
    assert np.array_equal(features[0], features[2])
    assert not np.array_equal(features[0], features[1])


def test_normalized_rows_have_length_one(tiny_bert):
    rows = BertVectorizer(tiny_bert, normalize=True).fit_transform(TEXTS)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


# ---- learned layer weights


def carried_by_one_layer(folder, layer, texts):
    """Label texts by the sign of one direction of one layer."""
    vectors = BertVectorizer(folder, layers=layer, cache=None).fit_transform(texts)
    scores = vectors @ np.random.default_rng(0).normal(size=vectors.shape[1])
    return np.where(scores > np.median(scores), "positive", "negative")


@pytest.fixture(scope="module")
def many_texts():
    words = (
        "a quiet lovely film two hours of my life i want back the soup was cold and dull".split()
    )
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, size=rng.integers(2, 9))) + f" {i}" for i in range(300)]


def test_learned_weights_are_those_of_the_training_vectors_and_features_the_weighted_sum(
    tiny_bert, many_texts
):
    y = carried_by_one_layer(tiny_bert, 2, many_texts)
    vectorizer = BertVectorizer(tiny_bert, pooling=("mean", "cls"), layers="all", combine="learned")
    features = vectorizer.fit_transform(many_texts, y)
    vectors = (
        BertVectorizer(tiny_bert, pooling=("mean", "cls"), layers="all")
        .fit_transform(many_texts)
        .reshape(300, 2, 4, 32)
    )
    mix = learn_layer_mix(vectors, y)
    assert np.array_equal(vectorizer.layer_weights_, mix.weights)
    assert vectorizer.layer_scale_ == mix.scale
    assert vectorizer.layer_weights_.shape == (4,)
    assert vectorizer.layer_weights_.sum() == pytest.approx(1)
    expected = mix.scale * np.einsum("k,npkd->npd", mix.weights, vectors).reshape(300, 64)
    assert np.abs(features - expected).max() <= TOLERANCE
    assert features.dtype == np.float32
    names = vectorizer.get_feature_names_out()
    assert (names[0], names[32], len(names)) == ("mean_layerlearned_00", "cls_layerlearned_00", 64)


def test_every_fold_learns_from_its_own_training_texts_and_no_text_is_encoded_twice(
    tiny_bert, many_texts, encoded
):
    y = carried_by_one_layer(tiny_bert, 2, many_texts)
    model = make_pipeline(
        BertVectorizer(tiny_bert, layers="all", combine="learned"),
        LogisticRegression(max_iter=2000),
    )
    clear_cache()
    encoded.clear()
    folds = cross_validate(model, many_texts, y, cv=3, return_estimator=True)["estimator"]
    weights = [fold[0].layer_weights_ for fold in folds]
    assert sum(encoded) == 300
    assert not np.array_equal(weights[0], weights[1])


def test_token_vectors_take_the_learned_weights(tiny_bert, many_texts):
    vectorizer = BertVectorizer(tiny_bert, layers=(1, 3), combine="learned")
    vectorizer.fit(many_texts, carried_by_one_layer(tiny_bert, 1, many_texts))
    frame = vectorizer.transform_tokens(["a quiet film"])
    by_layer = (
        BertVectorizer(tiny_bert, layers=(1, 3)).fit(many_texts).transform_tokens(["a quiet film"])
    )
    layers = by_layer.iloc[:, 4:].to_numpy().reshape(-1, 2, 32)
    expected = vectorizer.layer_scale_ * (vectorizer.layer_weights_[:, None] * layers).sum(axis=1)
    assert np.abs(frame.iloc[:, 4:].to_numpy() - expected).max() <= TOLERANCE


# ---- the pooler


def test_the_pooler_is_the_checkpoints_own_pooler_output(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    with torch.inference_mode():
        expected = (
            oracle.model(input_ids=torch.tensor([oracle.ids("I love Paris")]))
            .pooler_output[0]
            .numpy()
        )
    found = BertVectorizer(tiny_bert, pooling=("pooler", "cls")).fit_transform(["I love Paris"])[0]
    assert np.abs(found[:32] - expected).max() <= TOLERANCE
    assert not np.allclose(found[:32], found[32:])


@pytest.mark.parametrize("family", ["distilbert", "electra"])
def test_the_pooler_is_refused_where_the_checkpoint_has_no_trained_one(family, model_folder):
    with pytest.raises(
        ValueError, match=r"needs a trained pooler.*has none.*random.*Use 'cls' or 'mean'"
    ):
        BertVectorizer(model_folder(family), pooling="pooler").fit(["text"])


def test_a_masked_language_model_has_no_pooler_but_all_layers(tmp_path, hugging_face):
    from transformers import BertConfig, BertForMaskedLM

    folder = build_model(tmp_path / "mlm", "bert")
    config = BertConfig.from_pretrained(folder)
    torch.manual_seed(3)
    BertForMaskedLM(config).eval().save_pretrained(folder)
    features = BertVectorizer(str(folder), layers="all").fit_transform(["I love Paris"])
    expected = reference(hugging_face(str(folder)), ["I love Paris"], range(4), ("mean",), "concat")
    assert np.abs(features - expected).max() <= TOLERANCE
    with pytest.raises(ValueError, match="needs a trained pooler"):
        BertVectorizer(str(folder), pooling="pooler").fit(["text"])


# ---- truncation

LONG = " ".join(
    f"{word} {i}"
    for i, word in enumerate(["film", "soup", "paris", "dull", "days", "hours", "life", "spring"])
)


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_cut_texts_are_encoded_as_hugging_face_encodes_the_tokens_that_are_left(
    truncation, tiny_bert, hugging_face
):
    oracle = hugging_face(tiny_bert)
    cls, *own, sep = oracle.ids(LONG)
    kept = {"head": own[:8], "tail": own[-8:], "head_tail": own[:2] + own[-6:]}[truncation]
    vectorizer = BertVectorizer(tiny_bert, max_length=10, truncation=truncation)
    with pytest.warns(
        TruncationWarning,
        match=rf"1 of 2 texts.*max_length=10.*'{truncation}' cut {len(own) - 8} of ",
    ):
        features = vectorizer.fit_transform([LONG, "film"])
    expected = oracle.hidden_states_of_ids([cls, *kept, sep])[3].mean(axis=0)
    assert np.abs(features[0] - expected).max() <= TOLERANCE
    assert vectorizer.truncation_report_ == {
        "n_texts": 2,
        "texts_cut": 1,
        "n_tokens": len(own) + 2 + len(oracle.ids("film")),
        "tokens_lost": len(own) - 8,
        "share_lost": pytest.approx((len(own) - 8) / (len(own) + 2 + len(oracle.ids("film")))),
        "texts_in_windows": 0,
    }


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_windows_are_those_of_hugging_face_and_averaged_by_their_tokens(
    pooling, tiny_bert, hugging_face
):
    oracle = hugging_face(tiny_bert)
    windows = oracle.tokenizer(
        LONG,
        truncation=True,
        max_length=10,
        stride=2,
        return_overflowing_tokens=True,
        padding=False,
    )["input_ids"]
    assert len(windows) > 2
    states = [oracle.hidden_states_of_ids(ids)[2] for ids in windows]
    vectors = [{"cls": s[0], "mean": s.mean(axis=0), "max": s.max(axis=0)}[pooling] for s in states]
    expected = np.average(vectors, axis=0, weights=[len(ids) for ids in windows])
    vectorizer = BertVectorizer(
        tiny_bert, max_length=10, truncation="window", pooling=pooling, layers=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is lost, so nothing is warned of
        features = vectorizer.fit_transform(["film", LONG])
    assert np.abs(features[1] - expected).max() <= TOLERANCE
    assert vectorizer.truncation_report_["texts_in_windows"] == 1
    assert vectorizer.truncation_report_["tokens_lost"] == 0


def test_one_warning_per_call_and_none_for_texts_that_fit(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, max_length=10).fit(["film"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectorizer.transform([LONG, LONG + " more", "film"])
    assert [w.category for w in caught] == [TruncationWarning]
    assert vectorizer.truncation_report_["texts_cut"] == 0  # of the texts seen during fit


def test_count_tokens_tells_which_texts_are_cut(tiny_bert, hugging_face):
    vectorizer = BertVectorizer(tiny_bert, max_length=10).fit(["film"])
    counts = vectorizer.count_tokens(pd.Series(["film", LONG], index=["a", "b"]))
    n_long = len(hugging_face(tiny_bert).ids(LONG))
    assert list(counts.index) == ["a", "b"]
    assert counts["n_tokens"].tolist() == [len(hugging_face(tiny_bert).ids("film")), n_long]
    assert counts["n_lost"].tolist() == [0, n_long - 10]


# ---- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pooling": "clss"}, "'pooling' parameter of BertVectorizer must be"),
        (
            {"pooling": ("cls", "cls")},
            r"pooling=\('cls', 'cls'\); allowed are one or several different ones",
        ),
        ({"pooling": ()}, r"pooling=\(\); allowed"),
        ({"pooling": ("cls", "average")}, "allowed are one or several different ones"),
        ({"layers": "last"}, "'layers' parameter"),
        (
            {"layers": 4},
            r"asks for layer 4, .* has 3 layers\. Allowed are 0 .* to 3, or -4 to -1",
        ),
        ({"layers": (1, -3)}, "names a layer twice"),
        ({"layers": ()}, "layers is empty"),
        ({"combine": "learnt"}, "'combine' parameter"),
        *(
            ({"max_length": wrong}, "'max_length' parameter")
            for wrong in (2, 1, 0, -1, float("nan"), 40.0, "64")
        ),
        ({"max_length": 65}, r"max_length=65, but .* has positions for 64 tokens.*'window'"),
        ({"truncation": "middle"}, "'truncation' parameter"),
        ({"missing": "drop"}, "'missing' parameter"),
        ({"on_invalid": "ignore"}, "'on_invalid' parameter"),
        ({"batch_tokens": 0}, "'batch_tokens' parameter"),
        ({"device": "cuda:9"}, r"device='cuda:9' is not available .* cpu"),
        ({"device": "cpu", "dtype": "float16"}, "dtype='float16' needs an accelerator"),
        ({"model": "no/such/folder"}, r"neither an existing folder .* nor a hub id"),
        ({"model": 3}, "'model' parameter"),
        ({"pooling": "pooler", "layers": (1, 2)}, r"last layer only; got layers=\(1, 2\)"),
    ],
)
def test_wrong_parameters_are_refused_in_fit_and_say_what_is_allowed(
    parameters, message, tiny_bert
):
    vectorizer = BertVectorizer(**{"model": tiny_bert, **parameters})  # __init__ only stores
    with pytest.raises((ValueError, InvalidParameterError), match=message):
        vectorizer.fit(["text"])


def test_a_changed_model_is_used_by_the_next_fit(tiny_bert, tmp_path, hugging_face):
    other = str(build_model(tmp_path / "other", "bert", seed=1))
    vectorizer = BertVectorizer(tiny_bert).fit(["I love Paris"])
    first = vectorizer.transform(["I love Paris"])
    second = vectorizer.set_params(model=other).fit(["I love Paris"]).transform(["I love Paris"])
    assert not np.allclose(first, second)
    expected = reference(hugging_face(other), ["I love Paris"], (3,), ("mean",), "concat")
    assert np.abs(second - expected).max() <= TOLERANCE


def test_roberta_positions_leave_room_for_its_padding_index(model_folder, hugging_face):
    folder = model_folder("roberta")
    vectorizer = BertVectorizer(folder)
    text = "film " * 100
    with pytest.warns(TruncationWarning):
        features = vectorizer.fit_transform([text])
    assert vectorizer.max_length_ == 64
    assert (
        np.abs(features - reference(hugging_face(folder), [text], (3,), ("mean",), "concat")).max()
        <= TOLERANCE
    )


# ---- texts that are odd, one among many, or come to nothing


def test_texts_without_a_word_have_the_vector_of_start_and_end_alone(tiny_bert, hugging_face):
    blank = ["", " ", "\n", "\t\r\n", "\u3000", "\x00", "\u200b"]
    expected = reference(hugging_face(tiny_bert), [""], (3,), ("mean",), "concat")
    features = BertVectorizer(tiny_bert, cache=None).fit_transform(blank)
    assert np.abs(features - expected).max() <= TOLERANCE


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.UnknownTokensWarning")
@settings(deadline=None, derandomize=True, database=None, max_examples=40)
@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=()) | st.characters(categories=["Cs"]), max_size=12
        ),
        max_size=5,
    )
)
@example(["\ud83d\ude00", "a", "\ude00"])
def test_any_texts_give_one_finite_row_each_or_an_error_that_names_the_row(tiny_bert, texts):
    strict, lenient = (
        BertVectorizer(tiny_bert, cache=None, on_invalid=how).fit(["film"])
        for how in ("error", "coerce")
    )
    wrong = [
        i
        for i, text in enumerate(texts)
        if any("\ud800" <= character <= "\udfff" for character in text)
    ]
    repaired = [
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts
    ]
    rows = lenient.transform(texts)
    assert rows.shape == (len(texts), 32)
    assert np.isfinite(rows).all()
    if wrong:
        with pytest.raises(
            ValueError, match=rf"^row {wrong[0]} of X, a str, contains a lone surrogate"
        ):
            strict.transform(texts)
    assert np.array_equal(strict.transform(repaired), rows)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_with_its_text_and_the_precision(
    value, tiny_bert, monkeypatch
):
    pooled = PackedEncoder.pooled

    def overflowed(self, batch, *arguments):
        vectors = pooled(self, batch, *arguments).clone()
        vectors[batch.lengths > 10] = value
        return vectors

    monkeypatch.setattr(PackedEncoder, "pooled", overflowed)
    vectorizer = BertVectorizer(tiny_bert, cache=None).fit(["film"])
    assert vectorizer.transform(["film"]).shape == (1, 32)
    with pytest.raises(
        ValueError,
        match=r"features of text 2 are not finite \(dtype='auto', 1 such texts\).*dtype='float32'",
    ):
        vectorizer.transform(["film", "soup", "a film " * 20, "film"])


# ---- pickle and joblib


def test_copies_and_clones_work_and_clones_are_not_fitted(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, layers=(0, 1)).fit(TEXTS)
    assert np.array_equal(copy.deepcopy(vectorizer).transform(TEXTS), vectorizer.transform(TEXTS))
    with pytest.raises(NotFittedError):
        clone(vectorizer).transform(TEXTS)
    assert clone(vectorizer).get_params() == vectorizer.get_params()
    unfitted = pickle.loads(pickle.dumps(BertVectorizer(tiny_bert)))
    assert unfitted.fit(["film"]).transform(["film"]).shape == (1, 32)


@pytest.mark.skipif(
    not hasattr(BertVectorizer, "set_callbacks"),
    reason="a search is known from scikit-learn 1.9 on",
)
@pytest.mark.parametrize("cache", ["memory", None])
@pytest.mark.parametrize("kind", [GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV])
def test_a_search_warns_of_truncation_once_and_the_found_model_on_each_call(kind, cache, tiny_bert):
    texts = [f"A {word} film that is number {i}." for i in range(12) for word in ("good", "bad")]
    model = make_pipeline(
        BertVectorizer(tiny_bert, max_length=5, cache=cache), LogisticRegression()
    )
    options = {"n_iter": 2} if kind is RandomizedSearchCV else {}
    search = kind(model, {"logisticregression__C": [0.1, 1, 10]}, cv=2, **options)

    def n_warnings(call):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            call()
        return sum(one.category is TruncationWarning for one in told)

    assert n_warnings(lambda: search.fit(texts, ["good", "bad"] * 12)) == 1
    assert n_warnings(lambda: search.predict(texts[:3])) == 1
    assert n_warnings(lambda: search.best_estimator_.predict(texts[:3])) == 1
    assert n_warnings(lambda: search.fit(texts, ["good", "bad"] * 12)) == 1
    assert n_warnings(lambda: model.fit(texts, ["good", "bad"] * 12).predict(texts)) == 2
    assert "_search" not in search.best_estimator_[0].__getstate__()


def test_one_long_text_among_ten_thousand_short_ones_costs_no_padding_and_no_order(
    tiny_bert, monkeypatch
):
    texts = [f"film {i}" for i in range(10_000)]
    texts[7_321] = "a " * 60
    sent = []
    pooled = PackedEncoder.pooled

    def counted(self, batch, *arguments):
        sent.append(len(batch.input_ids))
        return pooled(self, batch, *arguments)

    vectorizer = BertVectorizer(tiny_bert, cache=None, layers=1, pooling="cls").fit(["film"])
    monkeypatch.setattr(PackedEncoder, "pooled", counted)
    rows = vectorizer.transform(texts)
    assert sum(sent) == vectorizer.count_tokens(texts)["n_tokens"].sum()
    for i in (0, 7_320, 7_321, 7_322, 9_999):
        assert np.abs(rows[i] - vectorizer.transform([texts[i]])[0]).max() <= TOLERANCE
