"""BertVectorizer. Saved artifacts name this module."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.preprocessing import normalize as l2_normalize
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from pipeline._compat import (
    CallbackSupportMixin,
    Hidden,
    Interval,
    StrOptions,
    check_feature_names_in,
    fit_context,
    with_callbacks,
)
from pipeline.bert.config import read_shape
from pipeline.bert.embedding import FrozenBert, TokenCounts
from pipeline.bert.encoder import DType
from pipeline.bert.pooling import POOLINGS, Combine, Pooling, combine_layers, feature_names
from pipeline.bert.sentence_modules import (
    SentenceModules,
    hint_at_length,
    hint_at_modules,
    sentence_modules,
)
from pipeline.bert.tokenizing import Truncation
from pipeline.bert.weights import cut
from pipeline.checkpoints.checkpoint import Checkpoint, resolve
from pipeline.embedding_cache import encode, open_store
from pipeline.fitted import SavedModel
from pipeline.layer_mix import LayerMix, apply_layer_mix, class_codes, learn_layer_mix
from pipeline.progress import progress
from pipeline.text_warnings import (
    FEW,
    count_words,
    search_of,
    unknown_report,
    warn_truncation,
    warn_unknown,
)
from pipeline.texts import Missing, OnInvalid, check_labels, check_X
from pipeline.token_level import TokenLevelMixin
from pipeline.vector_store import parse_size

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_DOCS = Path(__file__).resolve().parent.parent / "docs" / "bert-features.md"


class BertVectorizer(TokenLevelMixin, CallbackSupportMixin, TransformerMixin, SavedModel):
    """Turn raw texts into vectors of a frozen BERT.

    Each distinct text is encoded once, up to the deepest layer needed, and pooled to one vector
    per layer. The chosen layers and poolings make one row of features.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        A folder with ``config.json``, ``model.safetensors`` and a tokenizer, or a hub id. Fast
        families: BERT, DistilBERT, RoBERTa, XLM-R, CamemBERT, ELECTRA. Others: MPNet, ModernBERT,
        DeBERTa, ALBERT and more, see docs/models.md. The default, a 6-layer uncased BERT of width
        384, comes with the installation.

    revision : str or None, default=None
        Branch, tag or commit on the hub. A commit pins the model.

    pooling : str or tuple of str, default="mean"
        How the tokens of a text become one vector. ``"cls"``: the state of [CLS]. ``"mean"``,
        ``"max"``: over all tokens. ``"pooler"``: ``pooler_output``, a dense layer with tanh on the
        last [CLS], if the checkpoint has a trained one. ``"lasttoken"``, ``"weightedmean"`` (by
        position), ``"mean_sqrt_len_tokens"``: as in sentence-transformers. Several are
        concatenated. ``"checkpoint"``: the published poolings, dense layers, norms, prompt and
        length (``modules.json``) on the last layer, for the vectors of sentence-transformers.

    prompt : str or None, default=None
        Put before each text, such as ``"query: "``; truncation keeps it. None is the checkpoint's
        default under ``pooling="checkpoint"``, else none; "" is none.

    layers : int, tuple of int, or "all", default=-1
        Which of HF's ``hidden_states`` to use: 0 is the embedding output, -1 the last layer.

    combine : {"concat", "mean", "sum", "learned"}, default="concat"
        How several layers become one vector. ``"learned"`` fits softmax weights and a scale to y.

    max_length : int or None, default=None
        Most tokens per sequence, with [CLS], [SEP] and prompt. None is the model's limit, often
        512, or under ``pooling="checkpoint"`` the published one. `fit` gives a `ModelWarning` if
        sentence-transformers would truncate earlier.

    truncation : {"head", "tail", "head_tail", "window", "error"}, default="head"
        What to keep of longer texts: the start; the end; a quarter from the start and the rest from
        the end; everything, in overlapping windows whose vectors are averaged by token count; or
        raise an error. One `TruncationWarning` per call counts what was cut.

    missing : {"error", "empty"}, default="error"
        Treat None, NaN and pd.NA as an error or as the empty text.

    on_invalid : {"error", "coerce"}, default="error"
        Raise an error that names the row for cells that are not strings, several columns, and lone
        surrogates (half of a UTF-16 pair); or turn cells into text, join columns by a space, and
        replace surrogates by U+FFFD.

    normalize : bool, default=False
        Scale every row to Euclidean length 1.

    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``; ``"auto"`` prefers CUDA, then MPS.

    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the forward pass; ``"auto"`` is float16 on CUDA, else float32. float16 needs an
        accelerator, bfloat16 one or a CPU with bfloat16 products (AVX512-BF16, AMX). Features are
        always float32.

    batch_tokens : int or None, default=None
        Token budget of a batch, halved if CUDA memory runs out. Changes float32 features by at most
        1e-5. None is 2,048 on the CPU, 65,536 on CUDA and 8,192 on MPS.

    cache : {"memory"}, folder or None, default="memory"
        Where to keep vectors for folds, grid points and refits: in this process (up to
        ``cache_size``, dropping the least recently used with one `CacheWarning`); in a folder
        (SQLite), shared by processes and runs, readable only by its owner (vectors reveal something
        about texts); or nowhere, as in a loaded pipeline. With a cache the first pass runs all
        layers.

    cache_size : int, str or None, default=None
        Most bytes of this process's memory cache, for all vectorizers, such as ``"4GB"``. None
        keeps the size, at first 1 GiB: about 70,000 texts of the default model and one pooling.

    weights_in_artifact : bool, default=True
        Whether a saved vectorizer contains the model's weights, or only their hashes: then it finds
        the model again when opened, and rejects another one.

    local_files_only : bool, default=False
        Never ask the hub.

    progress : bool, default=False
        Show progress of encoding on stderr: a bar in a terminal or notebook, else a line every half
        minute. `compare`, `layer_study` and `label_issues` also show their fits.

    Attributes
    ----------
    n_features_in_ : int
        Number of text columns seen during fit: 1, or more under ``on_invalid="coerce"``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns, if X was a DataFrame.

    layers_ : tuple of int
        The layers used, without negative numbers.

    n_layers_ : int
        Number of encoder layers; the model has one more hidden state.

    hidden_size_ : int
        Width of the model.

    max_length_ : int
        Most tokens per sequence.

    prompt_ : str
        The text put before each text.

    source_ : dict
        Origin of the model: ``model``, ``kind``, ``revision`` (commit), ``sha256`` of its files.

    layer_weights_ : ndarray of shape (len(layers_),), float64
        With ``combine="learned"``: the weight of each layer, positive and with sum 1.

    layer_scale_ : float
        With ``combine="learned"``: the factor of the weighted sum.

    mean_ : ndarray of shape (n_features,), float32
        Mean of the features, the baseline of `pipeline.explain`. Only set by `fit_transform`.

    truncation_report_ : dict
        For the texts seen during fit: ``n_texts``, ``texts_cut``, ``n_tokens``, ``tokens_lost``,
        ``share_lost``, ``texts_in_windows``.

    unknown_report_ : dict
        Their tokens that are not in the vocabulary, such as emoji, and read as [UNK]: ``n_texts``,
        ``texts_with_unknown``, ``n_tokens``, ``tokens_unknown``, ``share_unknown``; ``n_words``
        (between blanks) and ``pieces_per_word``: 1.2 to 1.5 in English, more in a language that is
        spelled out. If a fifth of the texts cannot be read, fit gives an `UnknownTokensWarning`.

    See Also
    --------
    pipeline.make_sentiment_pipeline : This class and a LogisticRegression, with measured defaults.
    sklearn.feature_extraction.text.TfidfVectorizer : Counts words; the baseline to beat.

    References
    ----------
    .. [1] Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers
       for Language Understanding", 2019, section 5.3 and Table 7 (feature-based approach).
    .. [2] Reimers and Gurevych, "Sentence-BERT", 2019, Table 5 (frozen BERT features).

    Examples
    --------
    >>> from pipeline import BertVectorizer
    >>> vectorizer = BertVectorizer(pooling="cls", layers=(-2, -1))
    >>> vectorizer.fit_transform(["A quiet, lovely film.", "Two hours I want back."]).shape
    (2, 768)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str, Path],
        "revision": [str, None],
        "pooling": [StrOptions({*POOLINGS, "checkpoint"}), tuple, list],
        "prompt": [str, None],
        "layers": [Integral, StrOptions({"all"}), tuple, list, Hidden(np.ndarray)],
        "combine": [StrOptions({"concat", "mean", "sum", "learned"})],
        "max_length": [Interval(Integral, 3, None, closed="left"), None],
        "truncation": [StrOptions({"head", "tail", "head_tail", "window", "error"})],
        "missing": [StrOptions({"error", "empty"})],
        "on_invalid": [StrOptions({"error", "coerce"})],
        "normalize": ["boolean"],
        "device": [str],
        "dtype": [StrOptions({"auto", "float32", "float16", "bfloat16"})],
        "batch_tokens": [Interval(Integral, 1, None, closed="left"), None],
        "cache": [str, Path, None],
        "cache_size": [Interval(Integral, 1, None, closed="left"), str, None],
        "weights_in_artifact": ["boolean"],
        "local_files_only": ["boolean"],
        "progress": ["boolean"],
    }

    _state_version: ClassVar[int] = 2  # 2: prompts, and the modules of a checkpoint
    _sentence: SentenceModules | None = None
    _search: Any = None  # in which a fit takes place

    _doc_link_module = "pipeline"  # where the "?" of the HTML repr leads: there is no web site
    _doc_link_template = _DOCS.as_uri() if _DOCS.is_file() else ""

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        pooling: Pooling | Literal["checkpoint"] | tuple[Pooling, ...] = "mean",
        prompt: str | None = None,
        layers: int | tuple[int, ...] | str = -1,
        combine: Combine | Literal["learned"] = "concat",
        max_length: int | None = None,
        truncation: Truncation = "head",
        missing: Missing = "error",
        on_invalid: OnInvalid = "error",
        normalize: bool = False,
        device: str = "auto",
        dtype: DType = "auto",
        batch_tokens: int | None = None,
        cache: str | Path | None = "memory",
        cache_size: int | str | None = None,
        weights_in_artifact: bool = True,
        local_files_only: bool = False,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.revision = revision
        self.pooling = pooling
        self.prompt = prompt
        self.layers = layers
        self.combine = combine
        self.max_length = max_length
        self.truncation = truncation
        self.missing = missing
        self.on_invalid = on_invalid
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.batch_tokens = batch_tokens
        self.cache = cache
        self.cache_size = cache_size
        self.weights_in_artifact = weights_in_artifact
        self.local_files_only = local_files_only
        self.progress = progress

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Check parameters and texts, and find the model.

        Nothing is encoded, except with ``combine="learned"``.

        Parameters
        ----------
        X : iterable of str, length n_texts
            List, tuple, generator, 1-D or (n, 1) array, Series or one-column DataFrame of pandas,
            polars or pyarrow.
        y : array-like of shape (n_texts,) or (n_texts, n_outputs), optional
            Labels or targets, for ``combine="learned"``. Rejected if no classifier could use them.

        Returns
        -------
        BertVectorizer
            The fitted vectorizer.

        Raises
        ------
        TypeError, ValueError
            For invalid parameters, texts or labels.
        CheckpointError
            If the model cannot be found or loaded.
        """
        texts = self._check_fit(X, y)
        self.__dict__.pop("mean_", None)  # from an earlier fit
        if self.combine == "learned":
            self._encode_and_learn(texts, X, y)
        else:
            with self._fit_task(X, y, task_name="fit"):
                self._report(texts, self._bert().plan(texts).counts)
        return self

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Iterable[str], y: Any = None) -> np.ndarray:
        """Fit, and return the features of the same texts.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.
        y : array-like of shape (n_texts,), optional
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_features), float32
            Or a DataFrame, as set by `set_output`.
        """
        features = self._features(self._encode_and_learn(self._check_fit(X, y), X, y))
        self.mean_ = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        return features

    def transform(self, X: Iterable[str]) -> np.ndarray:
        """Return one row of features per text.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`; zero rows give an array of shape (0, n_features).

        Returns
        -------
        ndarray of shape (n_texts, n_features), float32
            In the order of the texts. Or a DataFrame, as set by `set_output`.
        """
        check_is_fitted(self)
        texts = check_X(self, X, reset=False)
        vectors, counts = self._encode(texts)
        self._warn_truncation(counts)
        name = str(self.model)
        warn_unknown(texts, counts.n_unknown, counts.n_tokens, name, at_least=FEW)
        return self._features(vectors)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Name the features by pooling, layer and position, such as ``mean_layer6_017``.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only checked against ``feature_names_in_``.

        Returns
        -------
        ndarray of shape (n_features,), object
            Combined layers are called ``layermean``, ``layersum`` or ``layerlearned``.
        """
        check_is_fitted(self)
        check_feature_names_in(self, input_features, generate_names=False)
        if self.pooling == "checkpoint":
            size = self._modules().width
            names = [f"checkpoint_{i:0{len(str(size - 1))}d}" for i in range(size)]
        else:
            names = self._names(self._poolings())
        return np.array(names, dtype=object)

    def _check_fit(self, X: Any, y: Any) -> list[str]:
        texts = check_X(self, X, reset=True)
        if not texts:
            raise ValueError(
                f"Found array with 0 sample(s) (shape=(0, {self.n_features_in_})) while a minimum "
                "of 1 is required: X holds no text to fit on."
            )
        check_labels(y, len(texts))  # before anything is encoded
        if self.combine == "learned":
            class_codes(y, len(texts))
        if self.cache_size is not None:
            parse_size(self.cache_size)
        self._find_model()
        return texts

    def _find_model(self) -> None:
        own = self.pooling == "checkpoint"
        poolings = () if own else self._poolings()
        if not own and not 0 < len(set(poolings) & set(POOLINGS)) == len(poolings):
            raise ValueError(
                f"pooling={self.pooling!r}; allowed are one or several different ones of "
                f"{POOLINGS}, or 'checkpoint'."
            )
        if own and self.combine == "learned":
            raise ValueError(
                "combine='learned' weights layers, and pooling='checkpoint' has only the last."
            )
        checkpoint = resolve(
            str(self.model), revision=self.revision, local_files_only=self.local_files_only
        )
        if own:  # part of what the model is, and saved
            source = {**checkpoint.source, "modules": checkpoint.modules_sha256}
            checkpoint = replace(checkpoint, source=source)
        self._checkpoint, self.source_ = checkpoint, checkpoint.source
        self._sentence = None
        self.prompt_, max_length = self.prompt or "", self.max_length
        if own:
            modules = self._modules()
            self.prompt_ = modules.prompt if self.prompt is None else self.prompt
            if max_length is None and modules.max_length is not None:
                max_length = min(modules.max_length, read_shape(checkpoint).max_positions)
        elif poolings == ("mean",):
            hint_at_modules(checkpoint, str(self.model))
        bert = FrozenBert.choose(
            checkpoint,
            layers=self.layers,
            max_length=max_length,
            **self._settings(self.device, self.dtype),
        )
        if own and bert.layers != (bert.n_layers,):
            raise ValueError(
                "pooling='checkpoint' works on the last layer only; "
                f"got layers={self.layers!r}. Use layers=-1, or another pooling."
            )
        self.layers_, self.n_layers_ = bert.layers, bert.n_layers
        self.hidden_size_, self.max_length_ = bert.hidden_size, bert.max_length
        self._made_with = None
        self._to_save: Checkpoint | None = None

    def _bert(self) -> FrozenBert:
        device, dtype = self._asked()
        if device != self.device or dtype != self.dtype:
            warnings.warn(
                f"Fitted with device={self.device!r}, dtype={self.dtype!r}, which this machine "
                "cannot do; running with 'auto'. Features differ in the last digits. "
                "Use set_params(device='auto', dtype='auto') to make this permanent.",
                stacklevel=4,
            )
        return FrozenBert(
            self._get_checkpoint(),
            self.n_layers_,
            self.hidden_size_,
            self.layers_,
            max_length=self.max_length_,
            **self._settings(device, dtype),
        )

    def _settings(self, device: str, dtype: DType) -> dict[str, Any]:
        """Return how to read and encode texts, as arguments of `FrozenBert`."""
        settings = {
            "poolings": self._poolings(),
            "truncation": self.truncation,
            "batch_tokens": self.batch_tokens,
            "device": device,
            "dtype": dtype,
            "prompt": self.prompt_,
        }
        if self.pooling == "checkpoint":
            modules = self._modules()
            settings |= {"lower": modules.lower, "pools_prompt": modules.include_prompt}
        return settings

    def _modules(self) -> SentenceModules:
        if self._sentence is None:
            self._sentence = sentence_modules(self._get_checkpoint())
        return self._sentence

    def _poolings(self) -> tuple[Pooling, ...]:
        if self.pooling == "checkpoint":
            return self._modules().poolings
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    def _encode(
        self, texts: list[str], on_batch: Callable[[], None] | None = None, place: str = ""
    ) -> tuple[np.ndarray, TokenCounts]:
        """Return vectors and token counts."""
        bert = self._bert()
        what = f"{place}, encoding" if place else "encoding"
        with progress(what, "text", shown=self.progress) as part:
            store = open_store(self.cache, bert, self.cache_size)
            return encode(bert, texts, store, part, on_batch)

    def _encode_and_learn(self, texts: list[str], X: Any, y: Any) -> np.ndarray:
        """Return the vectors of fit, learning layer weights if needed."""
        with self._fit_task(X, y, task_name="encode", max_subtasks=None) as (context, place):

            def on_batch() -> None:
                batch = context.subcontext(task_name="batch")
                batch.call_on_fit_task_begin(estimator=self)
                batch.call_on_fit_task_end(estimator=self)

            vectors, counts = self._encode(texts, on_batch, place)
            self._report(texts, counts)
            if self.combine == "learned":
                self._refuse_not_finite(vectors)
                mix = learn_layer_mix(vectors, y)
                self.layer_weights_, self.layer_scale_ = mix.weights, mix.scale
        return vectors

    @contextmanager
    def _fit_task(self, X: Any, y: Any, **task: Any) -> Iterator[tuple[Any, str]]:
        """Tell callbacks of a fit, and give its context and place in a search."""
        context = self._init_callback_context(**task)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._search, place = search_of(context)
        yield context, place
        self._search = self._search if place else None
        context.call_on_fit_task_end(estimator=self, X=X, y=y)

    def _report(self, texts: list[str], counts: TokenCounts) -> None:
        """Keep what fit could not read of its texts, and warn of it."""
        n_tokens, n_unknown = counts.n_tokens, counts.n_unknown
        n_words = count_words(texts, self.prompt_)
        self.truncation_report_ = counts.truncation_report()
        self.unknown_report_ = unknown_report(n_tokens, n_unknown, n_words)
        self._warn_truncation(counts)
        if self.max_length is None:
            hint_at_length(self._get_checkpoint(), str(self.model), n_tokens, self.max_length_)
        warn_unknown(texts, n_unknown, n_tokens, str(self.model))

    def _features(self, vectors: np.ndarray) -> np.ndarray:
        features = self._combine_layers(vectors)
        if self.pooling == "checkpoint":
            features = self._modules().finish(features)
        self._refuse_not_finite(features)
        return l2_normalize(features, copy=False) if self.normalize else features

    def _combine_layers(self, vectors: np.ndarray) -> np.ndarray:
        if self.combine == "learned":
            return apply_layer_mix(vectors, LayerMix(self.layer_weights_, self.layer_scale_))
        return combine_layers(vectors, self.combine)

    def _warn_truncation(self, counts: TokenCounts) -> None:
        cure = "Use count_tokens(X) to find them, or truncation='window' to keep all tokens."
        report = counts.truncation_report()
        warn_truncation(report, self.max_length_, self.truncation, cure, self._search)

    def _names(self, poolings: tuple[str, ...]) -> list[str]:
        sizes = (self.n_layers_, self.hidden_size_)
        return feature_names(poolings, self.layers_, self.combine, *sizes)

    def _refuse_not_finite(self, features: np.ndarray) -> None:
        axes = tuple(range(1, features.ndim))
        bad = np.flatnonzero(~np.isfinite(features).all(axis=axes))
        if len(bad):
            raise ValueError(
                f"The features of text {bad[0]} are not finite (dtype={self.dtype!r}, {len(bad)} "
                "such texts). Half precision overflows with some models: use dtype='float32'. If "
                "it is float32 already, the weights are damaged."
            )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        # one_d_array=True would make scikit-learn's checks send 1-D numbers only
        tags.input_tags.allow_nan = self.missing == "empty"
        tags.transformer_tags.preserves_dtype = []
        tags.target_tags.required = self.combine == "learned"
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return plain values and one uint8 array, always the same object."""
        state = super().__getstate__()
        if self.__sklearn_is_fitted__():
            state["cache"] = None
        return state

    def _carried(self) -> Checkpoint | None:
        """Return the model to save, or None for its hashes only."""
        if not self.weights_in_artifact:
            return None
        if self._to_save is None:
            with_pooler = "pooler" in self._poolings()
            self._to_save = cut(self._get_checkpoint(), max(self.layers_), with_pooler=with_pooler)
        return self._to_save

    def __setstate__(self, state: dict[str, Any]) -> None:
        # missing in older files
        state = {"prompt": None, "cache_size": None, **state}
        if "layers_" in state:
            state.setdefault("prompt_", "")
        super().__setstate__(state)
