"""Word2VecVectorizer: means of gensim's vectors, a seed for every bit, no gensim saved."""

import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import (
    check_do_not_raise_errors_in_init_or_set_params,
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

from pipeline import load_pipeline, save_pipeline
from pipeline.evaluation.word2vec import Word2VecVectorizer

TEXTS = [
    "A lovely, LOVELY film.",
    "The film was dull.",
    "Lovely day, dull film",
    "I don't know. Überraschend gut!",
    "a film",
] * 4


@pytest.fixture
def keyed():
    vectors = KeyedVectors(2)
    vectors.add_vectors(
        ["film", "Good", "good"], np.array([[1, 2], [3, 4], [5, 0]], dtype=np.float32)
    )
    return vectors


def small(**parameters):
    return Word2VecVectorizer(**{"vector_size": 6, "epochs": 3, "random_state": 0, **parameters})


# ---- the numbers


def test_a_text_is_the_mean_of_the_vectors_that_were_given(keyed):
    X = Word2VecVectorizer(keyed, lowercase=False).fit_transform(
        ["film good", "Good film film!", "unheard", ""]
    )
    assert X.dtype == np.float32
    np.testing.assert_allclose(X, [[3, 1], [5 / 3, 8 / 3], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(Word2VecVectorizer(keyed).fit_transform(["Good"]), [[5, 0]])


def test_trained_vectors_are_those_of_gensim_itself():
    vectorizer = small(window=2).fit(TEXTS)
    sentences = (
        "a lovely lovely film",
        "the film was dull",
        "lovely day dull film",
        "i don t know überraschend gut",
        "a film",
    )
    words = [sentence.split() for sentence in sentences] * 4
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    oracle = Word2Vec(
        words, vector_size=6, window=2, min_count=2, sg=1, epochs=3, seed=seed, workers=1
    ).wv
    assert vectorizer.vocabulary_ == oracle.key_to_index
    np.testing.assert_array_equal(vectorizer.vectors_, oracle.vectors)
    expected = [np.mean([oracle[word] for word in of_text], axis=0) for of_text in words]
    np.testing.assert_allclose(vectorizer.transform(TEXTS), expected, rtol=1e-5)


def test_rare_words_have_no_vector_and_long_texts_are_read_to_their_end():
    vectorizer = small(min_count=3, epochs=1).fit(["film " * 20_000 + "end end end", "once"])
    assert set(vectorizer.vocabulary_) == {"film", "end"}
    assert not vectorizer.transform(["once"]).any()


def test_a_seed_decides_every_bit_whatever_python_hashes_by():
    code = (
        "from tests.test_word2vec import TEXTS, small; import hashlib\n"
        "print(hashlib.sha256(small().fit(TEXTS).vectors_.tobytes()).hexdigest())"
    )
    top = Path(__file__).resolve().parent.parent
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=top,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1
    assert not np.array_equal(
        small(random_state=1).fit(TEXTS).vectors_, small(random_state=2).fit(TEXTS).vectors_
    )


# ---- vectors of a file


@pytest.mark.parametrize("name", ["v.txt", "v.bin", "v.bin.gz", "v.vec"])
def test_vectors_come_from_a_file_in_either_format(name, keyed, tmp_path):
    path = tmp_path / name
    binary = ".bin" in name
    keyed.save_word2vec_format(str(path), binary=binary)
    assert not name.endswith(".gz") or gzip.open(path).read(1)
    for given in (path, str(path)):
        vectorizer = Word2VecVectorizer(given).fit(["film"])
        np.testing.assert_array_equal(
            vectorizer.transform(["good film"]),
            Word2VecVectorizer(keyed).fit_transform(["good film"]),
        )


def test_a_file_that_is_missing_or_no_vectors_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file; give one in word2vec's format"):
        Word2VecVectorizer(tmp_path / "none.txt").fit(TEXTS)
    (tmp_path / "text.txt").write_text("these are\nno vectors\n")
    with pytest.raises(
        ValueError,
        match=r"cannot be read as word vectors in word2vec's text format.*must end in \.bin",
    ):
        Word2VecVectorizer(tmp_path / "text.txt").fit(TEXTS)


# ---- scikit-learn


@pytest.mark.parametrize(
    "check",
    [
        check_do_not_raise_errors_in_init_or_set_params,
        check_estimator_cloneable,
        check_estimator_repr,
        check_get_params_invariance,
        check_no_attributes_set_in_init,
        check_parameters_default_constructible,
        check_set_params,
    ],
)
def test_it_passes_the_checks_of_scikit_learn_that_need_no_numbers(check):
    check("Word2VecVectorizer", Word2VecVectorizer())


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_saved_pipeline_opens_and_says_the_same(format, tmp_path):
    labels = ["good", "bad", "good", "bad", "bad"] * 4
    model = make_pipeline(small(), LogisticRegression()).fit(TEXTS, labels)
    path = save_pipeline(model, tmp_path / f"m.{format}", format=format)
    np.testing.assert_array_equal(
        load_pipeline(path).predict_proba(TEXTS), model.predict_proba(TEXTS)
    )
    assert b"gensim" not in pickle.dumps(model)


@pytest.mark.parametrize(
    ("parameters", "texts", "error", "message"),
    [
        ({"vector_size": 0}, TEXTS, ValueError, "vector_size"),
        ({"epochs": "many"}, TEXTS, ValueError, "epochs"),
        ({"vectors": 3}, TEXTS, ValueError, "vectors"),
        (
            {"min_count": 50},
            TEXTS,
            ValueError,
            "No word occurs min_count=50 times in the 20 texts.*Lower min_count",
        ),
        ({}, [], ValueError, "no text to fit on"),
        ({}, ["film", None], ValueError, "row 1 of X is"),
        ({}, "film", ValueError, "a single string"),
    ],
)
def test_wrong_values_are_refused_in_fit(parameters, texts, error, message):
    with pytest.raises(error, match=message):
        small(**parameters).fit(texts)


def test_without_gensim_the_extra_is_named_and_what_is_fitted_still_works(monkeypatch):
    fitted = small().fit(TEXTS)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[word2vec\]'"):
        small().fit(TEXTS)
    assert fitted.transform(TEXTS).any()
