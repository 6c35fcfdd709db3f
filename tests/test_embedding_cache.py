"""No text is encoded twice: the counts of grid searches, what the key holds."""

import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, TruncationWarning, cache_info, clear_cache, embedding_cache
from pipeline import embedding_cache as cache_module
from pipeline.bert.packed import PackedEncoder
from pipeline.exceptions import CacheWarning
from pipeline.vector_store import MemoryStore
from tests.conftest import FRESH_SEEDS, TEXTS, build_model

TOP = Path(__file__).resolve().parent.parent
FORTY = [f"{'lovely' if i % 2 else 'dull'} film number {i} " + "word " * (i % 7) for i in range(40)]
LABELS = ["positive" if i % 2 else "negative" for i in range(40)]
FIVE = 5 * 4 * 32 * 4  # bytes of five texts, 4 layers of width 32, by one pooling
GRID_OVER_C = {"logisticregression__C": [0.1, 1, 10]}
GRID_OVER_ALL = {
    "bertvectorizer__layers": [0, 1, 2, 3, -2, (1, 2), "all"],
    "bertvectorizer__pooling": ["cls", "mean", "max"],
}


def search(model, grid, cache, n_jobs=None):
    pipeline = make_pipeline(BertVectorizer(model, cache=cache), LogisticRegression(max_iter=2000))
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=n_jobs).fit(FORTY, LABELS)


# ---- the count


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize(
    "grid", [GRID_OVER_C, GRID_OVER_ALL], ids=["over C", "over layers and poolings"]
)
def test_a_grid_search_over_forty_texts_sends_forty_texts_and_loads_one_model(
    grid, where, tmp_path, encoded
):
    model = str(build_model(tmp_path / "model", "bert", seed=next(FRESH_SEEDS)))
    search(model, grid, "memory" if where == "memory" else tmp_path / "cache")
    assert sum(encoded) == 40
    info = cache_info()
    assert (info.texts_encoded, info.misses, info.model_loads) == (40, 40, 1)
    assert info.hits > 0


def test_without_a_cache_every_fold_sends_its_texts_again(tiny_bert, encoded):
    search(tiny_bert, GRID_OVER_C, None)
    assert sum(encoded) == 640  # 3 values of C x 5 folds x (32 + 8), and 40 for the refit
    assert cache_info().texts_encoded == 640


def count_in_a_new_process(model, folder, n_texts=40, more=()):
    code = (
        "from pipeline import BertVectorizer, cache_info; from tests.test_embedding_cache import "
        f"FORTY;BertVectorizer({model!r}, cache={str(folder)!r}).fit_transform(FORTY[:{n_texts}] + "
        f"{list(more)!r});print(cache_info().texts_encoded, cache_info().hits)"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=TOP,
        env=environment,
    )
    return tuple(map(int, run.stdout.split()))


def test_a_rerun_in_a_new_process_sends_nothing_and_one_added_row_sends_one(tiny_bert, tmp_path):
    search(tiny_bert, GRID_OVER_C, tmp_path)
    assert count_in_a_new_process(tiny_bert, tmp_path) == (0, 40)
    assert count_in_a_new_process(tiny_bert, tmp_path, more=["one added row"]) == (1, 40)


def noted_score(model, X, y, log):
    score = model.score(X, y)
    with log.open("a") as file:  # after scoring, which may have sent texts of its own
        file.write(f"{os.getpid()} {cache_info().texts_encoded}\n")
    return score


def test_two_processes_send_a_text_twice_at_most_where_both_see_it_first(tiny_bert, tmp_path):
    """README: two workers that meet a new text at the same time both encode it, once each."""
    # workers of an earlier test would count what they sent there too
    get_reusable_executor().shutdown()
    log = tmp_path / "counts.txt"
    model = make_pipeline(
        BertVectorizer(tiny_bert, cache=tmp_path), LogisticRegression(max_iter=2000)
    )
    GridSearchCV(model, GRID_OVER_C, cv=5, n_jobs=2, scoring=partial(noted_score, log=log)).fit(
        FORTY, LABELS
    )
    most: dict[str, int] = {}
    for line in log.read_text().splitlines():
        process, texts = line.split()
        most[process] = max(most.get(process, 0), int(texts))
    assert 40 <= sum(most.values()) <= 40 * len(most) <= 80
    assert cache_info().texts_encoded == 0  # the refit, here, finds all of them


# ---- the same numbers


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize(
    "asked",
    [
        {"layers": -1, "pooling": "cls"},
        {"layers": (2, 0), "pooling": ("max", "mean"), "combine": "sum"},
        {"layers": "all", "pooling": "mean", "normalize": True},
        {"pooling": "pooler"},
        {"pooling": ("pooler", "cls")},
        {"max_length": 7, "truncation": "window"},
    ],
    ids=str,
)
def test_cached_features_are_bit_for_bit_those_that_were_computed_first(
    asked, where, tiny_bert, tmp_path
):
    cache = "memory" if where == "memory" else tmp_path
    first = BertVectorizer(tiny_bert, cache=cache, **asked).fit_transform(TEXTS)
    vectorizer = BertVectorizer(tiny_bert, cache=cache, **asked).fit(TEXTS)
    assert np.array_equal(vectorizer.transform(TEXTS), first)
    assert np.array_equal(vectorizer.transform(TEXTS[::-1]), first[::-1])
    assert np.array_equal(vectorizer.transform(["nobody has seen this", TEXTS[0]])[1], first[0])
    assert (
        np.abs(first - BertVectorizer(tiny_bert, cache=None, **asked).fit_transform(TEXTS)).max()
        <= 1e-5
    )


def test_a_key_holds_everything_that_changes_the_vector(tiny_bert, tmp_path, encoded):
    other = str(build_model(tmp_path / "other", "bert", seed=1))
    text = ["a film of more than seven words, that much is certain"]
    kinds = [
        {"model": tiny_bert},
        {"model": other},
        {"model": tiny_bert, "max_length": 12},
        {"model": tiny_bert, "max_length": 12, "truncation": "window"},
        {"model": tiny_bert, "max_length": 12, "truncation": "tail"},
    ]
    with pytest.warns(TruncationWarning, match="max_length=12"):
        rows = [BertVectorizer(**kind).fit_transform(text)[0] for kind in kinds]
    assert cache_info().hits == 0
    assert len({row.tobytes() for row in rows}) == len(kinds)


# ---- its bounds and its life


def test_a_full_memory_cache_lets_the_least_recently_used_go():
    store = MemoryStore(max_bytes=3 * 40)
    vectors = {bytes([i]) * 16: np.full((1, 10), i, dtype=np.float32) for i in range(4)}
    keys = list(vectors)
    store.put({key: vectors[key] for key in keys[:3]})
    store.get([keys[0]])
    store.put({keys[3]: vectors[keys[3]]})
    assert set(store.get(keys)) == {keys[0], keys[2], keys[3]}
    assert store.current_bytes == 120


@pytest.mark.parametrize("chunk_texts", [4, 1000])
def test_texts_that_do_not_fit_as_a_whole_are_not_kept_and_only_the_layers_asked_for_are_run(
    chunk_texts, tiny_bert, monkeypatch
):
    monkeypatch.setattr(
        embedding_cache, "CHUNK_TEXTS", chunk_texts
    )  # a group that would fit alone makes no difference
    depths = []
    load = cache_module.FrozenBert._load
    monkeypatch.setattr(
        cache_module.FrozenBert,
        "_load",
        lambda self, depth: depths.append(depth) or load(self, depth),
    )
    vectorizer = BertVectorizer(tiny_bert, layers=1, cache_size=FIVE).fit(FORTY)
    with pytest.warns(CacheWarning, match=r"hold about 5 texts.*cache='embeddings'.*cache_size="):
        vectorizer.transform(FORTY)
    vectorizer.transform(FORTY)  # it is said once
    assert set(depths) == {1}
    assert cache_info().current_bytes == 0
    depths.clear()
    vectorizer.transform(FORTY[:5])  # these fit by the pooling asked for, not by all of them
    assert set(depths) == {3}
    assert cache_info().current_bytes == FIVE


@pytest.mark.parametrize("size", ["7.68kB", "7.5 KiB", 7680])
def test_a_cache_that_pushes_texts_out_says_so_once_with_how_many_it_holds(size, tiny_bert):
    texts = iter(f"text {i}" for i in range(1000))
    vectorizer = clone(BertVectorizer(tiny_bert, cache_size=size)).fit(["a"])
    for _ in range(2):  # fifteen texts of one pooling, or five with the three that cost nothing
        vectorizer.transform([next(texts) for _ in range(2)])
    with pytest.warns(CacheWarning, match=r"7.68e-06 GB hold about 5 texts") as caught:
        vectorizer.transform([next(texts) for _ in range(3)])
    assert len(caught) == 1
    vectorizer.transform([next(texts) for _ in range(3)])
    assert cache_info().current_bytes <= 7680
    larger = clone(vectorizer).set_params(cache_size="1MB").fit(["a"])
    few = [next(texts) for _ in range(100)]
    larger.transform(few)  # there is room again
    before = cache_info().texts_encoded
    vectorizer.set_params(cache_size=None).transform(few)
    assert cache_info().texts_encoded == before


def test_the_size_of_the_cache_is_saved_and_a_wrong_one_refused(tiny_bert):
    fitted = pickle.loads(pickle.dumps(BertVectorizer(tiny_bert, cache_size="3GB").fit(["a"])))
    assert fitted.get_params()["cache_size"] == "3GB"
    for wrong in ("much", "2 apples", "", "0GB", "-1", "1GBs"):
        with pytest.raises(ValueError, match=r"cache_size=.*'2GB'"):
            BertVectorizer(tiny_bert, cache_size=wrong).fit(["a"])
    for wrong in (0, -1, 1.5, []):
        with pytest.raises(ValueError, match="cache_size"):
            BertVectorizer(tiny_bert, cache_size=wrong).fit(["a"])


# ---- the same text in other company


@pytest.fixture(scope="module")
def company():
    """Give 400 texts of 3 to 60 tokens and one of 512, all distinct."""
    words = "a quiet lovely film about two hours of my life that i want back because it was cold"
    words = words.split()
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 59))) + f" {i}" for i in range(400)]
    return [*texts, "word " * 600]


def test_a_vector_depends_on_the_company_of_its_text_by_no_more_than_the_bound(company):
    """docs/performance.md states 1e-5; the largest seen is near 2e-6."""
    vectorizer = BertVectorizer(pooling=("cls", "mean", "max"), layers="all", cache=None).fit(
        company[:1]
    )
    with pytest.warns(TruncationWarning):
        together = vectorizer.transform(company)
    order = np.random.default_rng(1).permutation(len(company))
    with pytest.warns(TruncationWarning):
        shuffled = vectorizer.transform([company[i] for i in order])
    assert np.abs(shuffled - together[order]).max() <= 1e-5
    for i in range(0, 400, 50):
        alone = vectorizer.transform([company[i]])[0]
        with pytest.warns(TruncationWarning):
            beside_a_long_one = vectorizer.transform([company[i], company[-1]])[0]
        assert np.abs(alone - together[i]).max() <= 1e-5
        assert np.abs(beside_a_long_one - together[i]).max() <= 1e-5


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_with_a_cache_a_vector_is_the_same_bit_for_bit_in_any_company(where, company, tmp_path):
    cache = "memory" if where == "memory" else tmp_path / "cache"
    vectorizer = BertVectorizer(layers=(-2, -1), cache=cache).fit(company[:1])
    with pytest.warns(TruncationWarning):
        together = vectorizer.transform(company)
    order = np.random.default_rng(1).permutation(400)
    assert np.array_equal(vectorizer.transform([company[i] for i in order]), together[order])
    assert np.array_equal(vectorizer.transform([company[7]])[0], together[7])
    assert np.array_equal(clone(vectorizer).fit_transform(company[:3]), together[:3])


def test_clearing_starts_the_counts_anew(tiny_bert):
    BertVectorizer(tiny_bert).fit_transform(FORTY)
    assert cache_info().current_bytes > 0
    clear_cache()
    assert cache_info() == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_was_encoded_before_an_interrupt_is_kept_and_the_next_call_encodes_the_rest(
    where, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setattr(cache_module, "CHUNK_TEXTS", 8)
    vectorizer = BertVectorizer(
        tiny_bert, cache="memory" if where == "memory" else tmp_path, batch_tokens=32
    ).fit(["film"])
    pooled, sent = PackedEncoder.pooled, []

    def interrupted(self, batch, *arguments):
        sent.append(len(batch.lengths))
        if sum(sent) > 20:  # in the midst of the third group
            raise KeyboardInterrupt
        return pooled(self, batch, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PackedEncoder, "pooled", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vectorizer.transform(FORTY)
    assert [
        thread.name for thread in threading.enumerate() if thread.name.startswith("tokenise")
    ] == []
    before = cache_info().texts_encoded
    rows = vectorizer.transform(FORTY)
    assert cache_info().texts_encoded - before == 40 - 16
    assert np.abs(rows - BertVectorizer(tiny_bert, cache=None).fit_transform(FORTY)).max() <= 1e-5
