"""Encode each distinct text once: look up, encode, store."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.bert import encoder
from pipeline.bert.embedding import FrozenBert, Plan, TokenCounts, find_distinct, naming_row
from pipeline.bert.pooling import Pooling
from pipeline.bert.tokenizing import TokenizedTexts
from pipeline.exceptions import CacheWarning, TextTooLongError
from pipeline.forks import ForkSafeLock
from pipeline.notebook import block, tiles
from pipeline.progress import Part
from pipeline.vector_store import (
    MEMORY_BYTES,
    FolderStore,
    MemoryStore,
    Store,
    cache_folder,
    clear_folder,
    is_unrecorded,
    parse_size,
    text_key,
)

NUMERICS = 4  # in every key: raise it when the encoder's numbers change
# texts per step, which limits the memory of a long run
CHUNK_TEXTS = 1024
# free with the forward pass
_FREE_POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "max")


class CacheInfo(NamedTuple):
    """Counts of the embedding caches of this process."""

    hits: int
    misses: int
    texts_encoded: int
    model_loads: int
    current_bytes: int

    def _repr_html_(self) -> str:
        asked = self.hits + self.misses
        cards = [
            ("Found in a cache", f"{self.hits:,}", f"of {asked:,} texts" if asked else ""),
            ("Texts encoded", f"{self.texts_encoded:,}", ""),
            ("Models loaded", f"{self.model_loads:,}", ""),
            ("Memory", f"{self.current_bytes / 1e6:,.1f} MB", ""),
        ]
        return block(tiles(cards))


_memory = MemoryStore()
_warned_sizes: set[int] = set()
_counts: Counter[str] = Counter()
_counts_lock = ForkSafeLock()


def cache_info() -> CacheInfo:
    """Return counts of this process's embedding caches, like ``functools.lru_cache``.

    Returns
    -------
    CacheInfo
        Named tuple, shown as cards in a notebook: ``hits`` and ``misses`` (distinct texts per call
        found, or not found, in a cache), ``texts_encoded`` (distinct texts sent through BERT),
        ``model_loads`` (encoders built) and ``current_bytes`` (of the memory cache). Other
        processes, such as those of ``n_jobs=2``, keep their own counts.

    Examples
    --------
    >>> from pipeline import BertVectorizer, cache_info, clear_cache
    >>> clear_cache()
    >>> features = BertVectorizer(layers=-1).fit_transform(["A lovely film.", "A dull film."])
    >>> other = BertVectorizer(layers="all", pooling="cls")
    >>> features = other.fit_transform(["A lovely film.", "A dull film."])
    >>> cache_info()[:3]
    (2, 2, 2)
    """
    with _counts_lock:
        counts = _counts.copy()
    return CacheInfo(
        counts["hits"],
        counts["misses"],
        counts["texts_encoded"],
        model_loads=encoder.n_loads() - counts["loads_before"],
        current_bytes=_memory.current_bytes,
    )


def clear_cache(folder: str | Path | None = None) -> None:
    """Empty the memory cache and its counts, or delete a folder cache.

    Parameters
    ----------
    folder : str or Path, optional
        A folder given as ``BertVectorizer(cache=folder)``.
    """
    if folder is not None:
        clear_folder(cache_folder(folder))
        return
    _memory.clear()
    _memory.max_bytes = MEMORY_BYTES
    with _counts_lock:
        _counts.clear()
        _warned_sizes.clear()
        _counts["loads_before"] = encoder.n_loads()


def _count(**numbers: int) -> None:
    if is_unrecorded():
        return
    with _counts_lock:
        _counts.update(numbers)


def fingerprint(bert: FrozenBert) -> str:
    """Return a hash of the model and its settings."""
    device, dtype = encoder.choose_device(bert.device, bert.dtype)
    settings: tuple[Any, ...] = (
        NUMERICS,
        bert.checkpoint.fingerprint,
        bert.max_length,
        bert.truncation,
        str(dtype),
        device.type,
    )
    if bert.prompt or bert.lower:
        settings += (bert.prompt, bert.lower, bert.pools_prompt)
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def open_store(
    cache: str | Path | None, bert: FrozenBert, size: int | str | None = None
) -> Store | None:
    """Return the store of ``BertVectorizer(cache=..., cache_size=...)``, or None."""
    if cache is None:
        return None
    # without a store, another depth might run in an encoder of its own
    if is_unrecorded():
        return MemoryStore()
    if cache != "memory":
        return FolderStore(cache_folder(cache), fingerprint(bert))
    if size is not None and (asked := parse_size(size)) != _memory.max_bytes:
        _memory.max_bytes, _memory.overflowed = asked, False
    return _memory


def encode(
    bert: FrozenBert,
    texts: Sequence[str],
    store: Store | None,
    part: Part,
    on_batch: Callable[[], None] | None = None,
) -> tuple[np.ndarray, TokenCounts]:
    """Return vectors, (n_texts, n_poolings, n_layers, hidden_size), and token counts."""
    # stored texts are tokenised too, for the report on truncation
    distinct, row_of = find_distinct(texts)
    kept = _widen(bert, len(distinct), store)
    vectors = np.empty(
        (len(distinct), len(bert.poolings), len(bert.layers), bert.hidden_size), dtype=np.float32
    )
    counts = np.zeros((4, len(distinct)), dtype=np.int64)  # the rows of `TokenCounts`
    # one layer instead of all: longer chunks fill large batches
    n_at_once = CHUNK_TEXTS if kept is not None else 4 * CHUNK_TEXTS
    starts = range(0, len(distinct), n_at_once)
    chunks = [distinct[start : start + n_at_once] for start in starts]
    done = known = 0
    try:
        for chunk, tokenized in zip(chunks, _tokenized_ahead(bert, chunks), strict=True):
            rows = slice(done, done + len(chunk))
            plan = Plan(np.arange(len(chunk)), tokenized, chunk)
            counts[:, rows] = plan.counts
            missing = _look_up(bert, store, chunk, vectors[rows])
            n_known = len(chunk) - len(missing)
            known += n_known
            if len(missing):
                plan = plan.subset(missing)
                step = _in_texts(part, plan, done + n_known, len(distinct), known, on_batch)
                vectors[rows][missing] = _compute(bert, kept, store, plan, step)
            done += len(chunk)
    except TextTooLongError as error:
        raise naming_row(error, row_of, done) from None
    if isinstance(store, MemoryStore) and known < len(distinct):
        _warn_if_full(kept, bert, store, len(distinct))
    if len(distinct) < len(texts):
        vectors = vectors[row_of]
    return vectors, TokenCounts(*counts[:, row_of])


def _in_texts(
    part: Part,
    plan: Plan,
    before: int,
    n_texts: int,
    known: int,
    on_batch: Callable[[], None] | None,
) -> Callable[[int], None]:
    """Return a function that shows progress."""
    n_sequences, encoded = len(plan.tokenized.input_ids), 0
    part.show(before, n_texts, known=known)

    def step(n: int) -> None:
        nonlocal encoded
        encoded += n
        part.show(before + len(plan.texts) * encoded // n_sequences, n_texts, known=known)
        if on_batch is not None:
            on_batch()

    return step


def _tokenized_ahead(bert: FrozenBert, chunks: list[list[str]]) -> Iterator[TokenizedTexts]:
    tokenize = bert.tokenizer
    if len(chunks) < 2:
        yield from map(tokenize, chunks)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:  # tokenizers frees the GIL
        pending = ahead.submit(tokenize, chunks[0])
        for chunk in chunks[1:]:
            tokenized, pending = pending.result(), ahead.submit(tokenize, chunk)
            yield tokenized
        yield pending.result()


def _widen(bert: FrozenBert, n_texts: int, store: Store | None) -> FrozenBert | None:
    """Return what to compute and keep, or None to keep nothing."""
    if store is None:
        return None
    # all layers and, if there is space, all poolings that cost nothing more, for searches
    every_layer = replace(bert, layers=tuple(range(bert.deepest_layer + 1)))
    poolings = (*bert.poolings, *(p for p in _FREE_POOLINGS if p not in bert.poolings))
    per_pooling = n_texts * len(every_layer.layers) * bert.hidden_size * 4
    if store.max_bytes >= per_pooling * len(poolings):
        return replace(every_layer, poolings=poolings)
    # a larger batch would push itself out again
    return every_layer if store.max_bytes >= per_pooling * len(bert.poolings) else None


def _warn_if_full(
    kept: FrozenBert | None, bert: FrozenBert, store: MemoryStore, n_texts: int
) -> None:
    """Warn once if texts were not kept, or replaced others."""
    if (kept is not None and not store.overflowed) or store.max_bytes in _warned_sizes:
        return
    _warned_sizes.add(store.max_bytes)
    n_vectors = len((kept or bert).poolings) * (bert.deepest_layer + 1)
    per_text = n_vectors * bert.hidden_size * 4
    enough = -(-max(2 * store.max_bytes, n_texts * per_text) // 10**9)
    warnings.warn(
        f"The memory cache is full: {store.max_bytes / 1e9:.3g} GB hold about "
        f"{store.max_bytes // per_text:,} texts of this model, with all its layers. Other texts "
        "are encoded again in each fold, fit and search. Set cache='embeddings' (a folder) to "
        f"keep all of them on disk, or cache_size='{enough}GB' or more.",
        CacheWarning,
        stacklevel=6,
    )


def _look_up(
    bert: FrozenBert, store: Store | None, texts: list[str], vectors: np.ndarray
) -> np.ndarray:
    """Fill in stored vectors, and return the places of the others."""
    if store is None:
        _count(texts_encoded=len(texts))
        return np.arange(len(texts))
    namespace = fingerprint(bert)
    keys = [[text_key(namespace, pooling, text) for pooling in bert.poolings] for text in texts]
    known = store.get([key for of_text in keys for key in of_text])
    missing = []
    for i, of_text in enumerate(keys):
        if not known.keys() >= set(of_text):
            missing.append(i)
            continue
        for j, (pooling, key) in enumerate(zip(bert.poolings, of_text, strict=True)):
            vectors[i, j] = known[key][[0] if pooling == "pooler" else list(bert.layers)]
    n_missing = len(missing)
    _count(hits=len(texts) - n_missing, misses=n_missing, texts_encoded=n_missing)
    return np.array(missing, dtype=np.int64)


def _compute(
    bert: FrozenBert,
    kept: FrozenBert | None,
    store: Store | None,
    plan: Plan,
    on_batch: Callable[[int], None],
) -> np.ndarray:
    """Encode a plan, store it as ``kept``, and return it as ``bert``."""
    wide = kept or bert
    computed = wide.embed(plan, on_batch)  # (n_missing, n_wide_poolings, n_wide_layers, hidden)
    if store is not None and kept is not None:
        namespace = fingerprint(bert)
        store.put(
            {
                text_key(namespace, pooling, text): _own_copy(computed[i, j], pooling)
                for i, text in enumerate(plan.texts)
                for j, pooling in enumerate(wide.poolings)
            }
        )
    layers = [wide.layers.index(layer) for layer in bert.layers]
    return np.asarray(computed[:, : len(bert.poolings)][:, :, layers])


def _own_copy(vectors: np.ndarray, pooling: str) -> np.ndarray:
    # a view would keep the whole chunk in memory
    copy = vectors[-1:].copy() if pooling == "pooler" else vectors.copy()
    copy.setflags(write=False)
    return copy
