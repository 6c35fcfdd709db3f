"""Encode each distinct text once: look up, encode, store."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.bert import encoder
from pipeline.bert.embedding import FrozenBert, Plan, truncation_report
from pipeline.bert.pooling import Pooling
from pipeline.exceptions import TextTooLongError
from pipeline.forks import ForkSafeLock
from pipeline.vector_store import (
    FolderStore,
    MemoryStore,
    Store,
    cache_folder,
    clear_folder,
    is_unrecorded,
    text_key,
)

NUMERICS = 3  # part of every key: raised when a change of the encoder changes its numbers
CHUNK_TEXTS = (
    1024  # texts looked up, encoded and stored at a time: this bounds the memory of a long run
)
_FREE_POOLINGS: tuple[Pooling, ...] = (
    "cls",
    "mean",
    "max",
)  # cost nothing beside the forward pass they come from


class CacheInfo(NamedTuple):
    """Counts of the embedding caches of this process."""

    hits: int
    misses: int
    texts_encoded: int
    model_loads: int
    current_bytes: int


_memory = MemoryStore()
_counts: Counter[str] = Counter()
_counts_lock = ForkSafeLock()


def cache_info() -> CacheInfo:
    """Tell what the embedding caches of this process did so far, as ``functools.lru_cache`` does.

    Returns
    -------
    CacheInfo
        Named tuple: ``hits`` and ``misses`` (distinct texts per call that were, or were not, in a
        cache), ``texts_encoded`` (distinct texts sent through BERT, cached or not), ``model_loads``
        (encoders built) and ``current_bytes`` (of the memory cache). Other processes, such as those
        of ``n_jobs=2``, count for themselves.

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
        counts = dict(_counts)
    return CacheInfo(
        hits=counts.get("hits", 0),
        misses=counts.get("misses", 0),
        texts_encoded=counts.get("texts_encoded", 0),
        model_loads=encoder.n_loads() - counts.get("loads_before", 0),
        current_bytes=_memory.current_bytes,
    )


def clear_cache(folder: str | Path | None = None) -> None:
    """Empty the memory cache and reset the counts, or delete a folder cache.

    Parameters
    ----------
    folder : str or Path, optional
        A folder given as ``BertVectorizer(cache=folder)``.
    """
    if folder is not None:
        clear_folder(cache_folder(folder))
        return
    _memory.clear()
    with _counts_lock:
        _counts.clear()
        _counts["loads_before"] = encoder.n_loads()


def _count(**numbers: int) -> None:
    if is_unrecorded():
        return
    with _counts_lock:
        _counts.update(numbers)


def fingerprint(bert: FrozenBert) -> str:
    """Return one hash of all that changes vectors, except text, pooling, layer."""
    device, dtype = encoder.choose_device(bert.device, bert.dtype)
    settings = (
        NUMERICS,
        bert.checkpoint.fingerprint,
        bert.max_length,
        bert.truncation,
        str(dtype),
        device.type,
    )
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def open_store(cache: str | Path | None, bert: FrozenBert) -> Store | None:
    """Return the store of ``BertVectorizer(cache=...)``, or None."""
    if cache is None:
        return None
    if (
        is_unrecorded()
    ):  # a store all the same: without one another depth might run, by an encoder of its own
        return MemoryStore()
    return _memory if cache == "memory" else FolderStore(cache_folder(cache), fingerprint(bert))


@dataclass
class Lookup:
    """What a cache had of a plan, and what is missing."""

    vectors: np.ndarray
    chunks: list[tuple[np.ndarray, Plan]]
    wide: FrozenBert
    store: Store | None

    @property
    def n_sequences(self) -> int:
        """Return the number of sequences left to encode."""
        return sum(len(plan.tokenized.input_ids) for _, plan in self.chunks)


def look_up(bert: FrozenBert, made: Plan, store: Store | None, n_texts: int) -> Lookup:
    """Ask a store for the vectors of a plan."""
    vectors = np.empty(
        (made.n_distinct, len(bert.poolings), len(bert.layers), bert.hidden_size), dtype=np.float32
    )
    there = np.zeros(made.n_distinct, dtype=bool)
    if store is not None:
        namespace = fingerprint(bert)
        for start in range(0, made.n_distinct, CHUNK_TEXTS):
            _take_found(
                bert,
                made,
                store,
                namespace,
                range(start, min(start + CHUNK_TEXTS, made.n_distinct)),
                vectors,
                there,
            )
        _count(hits=int(there.sum()), misses=int((~there).sum()))
    missing = np.flatnonzero(~there)
    _count(texts_encoded=len(missing))
    wide = _widen(bert, n_texts, store)
    if wide is None:
        plan = made if len(missing) == len(made.row_of) else made.subset(missing, bert.group)
        return Lookup(vectors, [(missing, plan)] if len(missing) else [], bert, None)
    by_length = missing[np.argsort(-made.tokenized.n_tokens[missing], kind="stable")]
    groups = [
        by_length[start : start + CHUNK_TEXTS] for start in range(0, len(by_length), CHUNK_TEXTS)
    ]
    return Lookup(
        vectors, [(group, made.subset(group, bert.group)) for group in groups], wide, store
    )


def _take_found(
    bert: FrozenBert,
    made: Plan,
    store: Store,
    namespace: str,
    chunk: range,
    vectors: np.ndarray,
    there: np.ndarray,
) -> None:
    keys = {i: [text_key(namespace, p, made.texts[i]) for p in bert.poolings] for i in chunk}
    found = store.get([key for of_text in keys.values() for key in of_text])
    for i, of_text in keys.items():
        if all(key in found for key in of_text):
            there[i] = True
            for j, (pooling, key) in enumerate(zip(bert.poolings, of_text, strict=True)):
                vectors[i, j] = found[key][[0] if pooling == "pooler" else list(bert.layers)]


def _widen(bert: FrozenBert, n_texts: int, store: Store | None) -> FrozenBert | None:
    """Return what to compute and keep, or None to keep nothing."""
    if store is None:
        return None
    all_layers = tuple(range(bert.deepest_layer + 1))
    per_pooling = n_texts * len(all_layers) * bert.hidden_size * 4  # bytes
    extra: tuple[Pooling, ...] = tuple(p for p in _FREE_POOLINGS if p not in bert.poolings)
    if store.room() >= per_pooling * (len(bert.poolings) + len(extra)):
        return replace(bert, layers=all_layers, poolings=(*bert.poolings, *extra))
    # what does not fit into the memory cache as a whole would push itself out again
    return (
        replace(bert, layers=all_layers)
        if store.room() >= per_pooling * len(bert.poolings)
        else None
    )


def complete(
    bert: FrozenBert, made: Plan, lookup: Lookup, on_batch: Callable[[int], None] | None = None
) -> np.ndarray:
    """Encode the missing texts, and return all vectors."""
    wide = lookup.wide
    where = [wide.layers.index(layer) for layer in bert.layers]
    for positions, plan in lookup.chunks:
        computed = wide.embed(
            plan, on_batch
        )  # (n_missing, n_wide_poolings, n_wide_layers, hidden_size)
        lookup.vectors[positions] = computed[:, : len(bert.poolings)][:, :, where]
        if lookup.store is not None:
            namespace = fingerprint(bert)
            lookup.store.put(
                {
                    text_key(namespace, pooling, made.texts[i]): _kept(computed[row, j], pooling)
                    for row, i in enumerate(positions)
                    for j, pooling in enumerate(wide.poolings)
                }
            )
    return lookup.vectors


def _kept(vectors: np.ndarray, pooling: str) -> np.ndarray:
    """Copy one text's vectors, (n_layers, hidden_size)."""
    kept = vectors[-1:].copy() if pooling == "pooler" else vectors.copy()
    kept.setflags(write=False)
    return kept


# distinct texts tokenised at a time, while those before them are encoded: bounds the memory of a
# long run
PLAN_TEXTS = 4096


@dataclass(frozen=True)
class Encoded:
    """Vectors, (n_texts, n_poolings, n_layers, hidden_size), and truncation report."""

    vectors: np.ndarray
    truncation_report: dict[str, Any]


def encode(
    bert: FrozenBert,
    texts: Sequence[str],
    store: Store | None,
    on_plan: Callable[[int], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Return the vectors of all texts, encoding those not in the store."""
    position: dict[str, int] = {}
    row_of = np.array([position.setdefault(text, len(position)) for text in texts], dtype=np.int64)
    distinct = list(position)
    groups = [
        distinct[start : start + PLAN_TEXTS] for start in range(0, len(distinct), PLAN_TEXTS)
    ] or [[]]
    parts: list[np.ndarray] = []
    counts: list[
        tuple[np.ndarray, np.ndarray, np.ndarray]
    ] = []  # tokens, tokens lost and windows of each distinct text
    try:
        for made in _planned_ahead(bert, groups):
            lookup = look_up(bert, made, store, len(distinct))
            if on_plan is not None:
                on_plan(lookup.n_sequences)
            parts.append(complete(bert, made, lookup, on_batch))
            counts.append((made.tokenized.n_tokens, made.tokenized.n_lost, made.n_windows))
    except (
        TextTooLongError
    ) as error:  # it counts the distinct texts of one group; the user counts rows
        row = int(np.flatnonzero(row_of == PLAN_TEXTS * len(parts) + error.text)[0])
        raise TextTooLongError(row, error.n_tokens, error.max_length) from None
    report = truncation_report(
        *(np.concatenate(of_all)[row_of] for of_all in zip(*counts, strict=True))
    )
    vectors = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Encoded(vectors if len(distinct) == len(texts) else vectors[row_of], report)


def _planned_ahead(bert: FrozenBert, groups: list[list[str]]) -> Iterator[Plan]:
    if len(groups) == 1:
        yield bert.plan(groups[0])
        return
    with ThreadPoolExecutor(
        1, thread_name_prefix="tokenise"
    ) as ahead:  # tokenizers let go of the GIL
        pending = ahead.submit(bert.plan, groups[0])
        for group in groups[1:]:
            made, pending = pending.result(), ahead.submit(bert.plan, group)
            yield made
        yield pending.result()
