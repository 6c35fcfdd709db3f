"""FineTunedBertClassifier. Saved artifacts name this module."""

import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from pipeline._compat import Interval, StrOptions, fit_context
from pipeline.bert.embedding import FrozenBert
from pipeline.bert.encoder import DType, choose_device
from pipeline.bert.weights import read_head
from pipeline.checkpoints.checkpoint import resolve
from pipeline.fitted import SavedModel
from pipeline.text_warnings import FEW, warn_truncation, warn_unknown
from pipeline.texts import check_X, class_numbers, set_aside
from pipeline.vectorizer import DEFAULT_MODEL

_COUNT = Interval(Integral, 1, None, closed="left")
_RATE = Interval(Real, 0, None, closed="neither")
_SHARE = Interval(Real, 0, 1, closed="left")


class FineTunedBertClassifier(ClassifierMixin, SavedModel):
    """Classify texts with a BERT that is trained on the labels.

    `BertVectorizer` uses a frozen model; this classifier of raw texts trains it. Fitting is slower
    by orders of magnitude and pays off from a few thousand labels on. Training uses Hugging Face's
    Trainer and accelerate; prediction needs neither.

    Parameters
    ----------
    model : str, default="sentence-transformers/all-MiniLM-L6-v2"
        Folder or hub id of the model to start from, as in `BertVectorizer`.

    revision : str or None, default=None
        Branch, tag or commit on the hub.

    pooling : {"cls", "mean", "max"}, default="mean"
        Input of the head: the last hidden state of [CLS], as in [1]_, or the mean or maximum over
        all tokens. The default model was made for the mean.

    head_only : bool, default=False
        Train only the head.

    unfrozen_layers : int or None, default=None
        Number of encoder layers to train, from the top; faster, with less memory. None trains
        everything, also the embeddings.

    epochs : int, default=3
        Passes over the texts; with ``early_stopping`` the maximum.

    learning_rate : float, default=1e-4
        Highest learning rate of the encoder's AdamW. [1]_ recommends 2e-5 to 5e-5 for models of 12
        layers and more.

    head_learning_rate : float, default=1e-3
        That of the head, which starts from random weights.

    batch_size : int, default=32
        Texts per step.

    warmup_ratio : float, default=0.1
        Share of the steps in which the learning rates rise from 0; then they fall linearly to 0.

    weight_decay : float, default=0.01
        For all matrices, but not for biases and LayerNorms.

    dropout : float, default=0.1
        Share of the pooled vector that is dropped in training.

    max_length : int or None, default=128
        Most tokens per text, with [CLS] and [SEP]. None is the model's own limit, 512 for BERT.

    truncation : {"head", "tail", "head_tail", "error"}, default="head"
        What to keep of longer texts: the start; the end; a quarter from the start and the rest from
        the end, which [2]_ found best; or raise an error. One `TruncationWarning` per call counts
        them.

    class_weight : dict, "balanced" or None, default=None
        Factors of the loss by class, as in LogisticRegression.

    early_stopping : bool, default=False
        Hold out some texts, stop when their accuracy no longer rises, and keep the best epoch.

    validation_fraction : float, default=0.1
        Share of the texts held out by ``early_stopping``, stratified by class.

    patience : int, default=2
        Epochs that ``early_stopping`` waits for a better accuracy, or an equal one with a smaller
        loss.

    random_state : int, RandomState instance or None, default=None
        Sets the head's initial weights, dropout, the order of the texts and the held-out ones. An
        int gives the same bits each time on a CPU with the same number of threads.

    device : str, default="auto"
        ``"cpu"``, ``"cuda"`` or ``"mps"``; ``"auto"`` prefers CUDA, then MPS, then the CPU.

    local_files_only : bool, default=False
        Never ask the hub.

    progress : bool, default=False
        Show a progress bar while training.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    n_features_in_ : int
        Number of text columns: 1.

    feature_names_in_ : ndarray of shape (1,)
        Name of the column, if X was a DataFrame.

    history_ : list of dict
        Per epoch: ``epoch``, ``loss`` (mean over the training texts, with dropout), and with
        ``early_stopping`` ``val_loss`` and ``val_accuracy``.

    n_epochs_ : int
        Epochs trained.

    best_epoch_ : int
        The epoch of these weights.

    n_layers_, hidden_size_, max_length_ : int
        Encoder layers, width and most tokens of the model.

    source_ : dict
        Origin of the pre-trained model: ``model``, ``kind``, ``revision`` and the ``sha256`` of its
        files.

    truncation_report_ : dict
        For the texts seen during fit, as in `BertVectorizer`.

    See Also
    --------
    pipeline.make_sentiment_pipeline : The frozen model, to be tried first.

    References
    ----------
    .. [1] Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers
       for Language Understanding", 2019, section 3.2 and appendix A.3 (batch size, learning rate,
       epochs).
    .. [2] Sun, Qiu, Xu and Huang, "How to Fine-Tune BERT for Text Classification?", 2019, section
       5.

    Examples
    --------
    >>> from pipeline import FineTunedBertClassifier
    >>> model = FineTunedBertClassifier(epochs=6, batch_size=2, random_state=0)
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = model.fit(texts, ["good", "bad", "good", "bad"])
    >>> model.predict(["A lovely film."])
    array(['good'], dtype='<U4')
    """

    dtype: DType = "float32"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "model": [str, Path],
        "revision": [str, None],
        "pooling": [StrOptions({"cls", "mean", "max"})],
        "head_only": ["boolean"],
        "unfrozen_layers": [_COUNT, None],
        "epochs": [_COUNT],
        "learning_rate": [_RATE],
        "head_learning_rate": [_RATE],
        "batch_size": [_COUNT],
        "warmup_ratio": [_SHARE],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dropout": [_SHARE],
        "max_length": [Interval(Integral, 3, None, closed="left"), None],
        "truncation": [StrOptions({"head", "tail", "head_tail", "error"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [_COUNT],
        "random_state": ["random_state"],
        "device": [str],
        "local_files_only": ["boolean"],
        "progress": ["boolean"],
    }

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        pooling: Literal["cls", "mean", "max"] = "mean",
        head_only: bool = False,
        unfrozen_layers: int | None = None,
        epochs: int = 3,
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        batch_size: int = 32,
        warmup_ratio: float = 0.1,
        weight_decay: float = 0.01,
        dropout: float = 0.1,
        max_length: int | None = 128,
        truncation: Literal["head", "tail", "head_tail", "error"] = "head",
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 2,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        local_files_only: bool = False,
        progress: bool = False,
    ) -> None:
        self.model = model
        self.revision = revision
        self.pooling = pooling
        self.head_only = head_only
        self.unfrozen_layers = unfrozen_layers
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.batch_size = batch_size
        self.warmup_ratio = warmup_ratio
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.max_length = max_length
        self.truncation = truncation
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.local_files_only = local_files_only
        self.progress = progress

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Iterable[str], y: Any) -> Self:
        """Train the model on texts and their labels.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `BertVectorizer.fit`.
        y : array-like of shape (n_texts,)
            Labels: strings, integers or booleans, of two classes or more.

        Returns
        -------
        FineTunedBertClassifier
            The fitted classifier.

        Raises
        ------
        TypeError, ValueError
            For invalid parameters, texts or labels, before anything is loaded; and if training
            diverges.
        CheckpointError
            If the model cannot be found or loaded.
        ImportError
            If accelerate is not installed.
        """
        texts = check_X(self, X, reset=True)
        classes, codes = self._check_y(y, len(texts))
        weights = compute_class_weight(self.class_weight, classes=classes, y=classes[codes])
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        rows, aside = np.arange(len(texts)), None
        if self.early_stopping:
            rows, aside = set_aside(codes, classes, self.validation_fraction, seed)
        try:
            import accelerate  # noqa: F401 - needed by the Trainer, whose own error is long
        except ImportError as error:
            raise ImportError(
                "Fine-tuning needs accelerate: pip install '.[finetune]' in a checkout, or pip "
                "install accelerate. Prediction does not need it."
            ) from error
        from pipeline.bert.training import Examples, Recipe, train

        bert = self._find_model()
        plan = bert.plan(texts)
        report = plan.truncation_report()
        self._warn_of(plan, report, bert.max_length)
        ids = [plan.tokenized.input_ids[row] for row in plan.row_of]
        trained = train(
            bert.checkpoint,
            Examples([ids[i] for i in rows], codes[rows]),
            None if aside is None else Examples([ids[i] for i in aside], codes[aside]),
            class_weight=weights,
            recipe=Recipe(
                epochs=int(self.epochs),
                batch_size=int(self.batch_size),
                learning_rate=float(self.learning_rate),
                head_learning_rate=float(self.head_learning_rate),
                weight_decay=float(self.weight_decay),
                warmup_ratio=float(self.warmup_ratio),
                dropout=float(self.dropout),
                patience=int(self.patience),
                n_trained=0 if self.head_only else self.unfrozen_layers,
                pooling=self.pooling,
                seed=seed,
                progress=bool(self.progress),
            ),
            device=choose_device(self.device)[0],
        )
        self.classes_, self.truncation_report_ = classes, report
        self.n_layers_, self.hidden_size_ = bert.n_layers, bert.hidden_size
        self.max_length_ = bert.max_length
        self.history_, self.best_epoch_ = trained.history, trained.best_epoch
        self.n_epochs_ = len(trained.history)
        self.source_ = bert.checkpoint.source
        self._checkpoint, self._made_with = trained.checkpoint, None
        return self

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Return the probability of every class for every text.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`; zero texts give zero rows.

        Returns
        -------
        ndarray of shape (n_texts, n_classes), float64
            By text and class. Other texts in the same call change a row by no more than 1e-5.

        Raises
        ------
        NotFittedError
            Before `fit`.
        CheckpointError
            If the saved weights are damaged.
        """
        return self.predict_both(X)[1]

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """Return the most probable label of every text.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts,)
            Values of ``classes_``.
        """
        return self.predict_both(X)[0]

    def predict_both(self, X: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the results of `predict` and `predict_proba` in one pass.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_texts,)
        probabilities : ndarray of shape (n_texts, n_classes), float64
        """
        logits = self._logits(X)
        return np.asarray(self.classes_[logits.argmax(axis=1)]), np.asarray(softmax(logits, axis=1))

    def _logits(self, X: Iterable[str]) -> np.ndarray:
        """Return the logits of the head, (n_texts, n_classes), float64."""
        check_is_fitted(self)
        bert = self._bert()
        plan = bert.plan(check_X(self, X, reset=False))
        self._warn_of(plan, plan.truncation_report(), self.max_length_, at_least=FEW)
        # another object of the same name may own the encoder; the head is read here
        checkpoint = self._get_checkpoint()
        checkpoint.verify()
        weight, bias = read_head(checkpoint, len(self.classes_), self.hidden_size_)
        vectors = bert.embed(plan)[:, 0, 0].astype(np.float64)  # (n_texts, hidden_size)
        return np.asarray(vectors @ weight.T + bias)

    def _check_y(self, y: Any, n_texts: int) -> tuple[np.ndarray, np.ndarray]:
        if n_texts == 0:
            raise ValueError(
                "Found array with 0 sample(s) (shape=(0, 1)) while a minimum of 1 is required: X "
                "holds no text."
            )
        if self.head_only and self.unfrozen_layers is not None:
            raise ValueError(
                f"head_only=True trains no layer, but unfrozen_layers={self.unfrozen_layers}; "
                "leave one of them out."
            )
        return class_numbers(y, n_texts)

    def _find_model(self) -> FrozenBert:
        choose_device(self.device)
        checkpoint = resolve(
            str(self.model), revision=self.revision, local_files_only=self.local_files_only
        )
        bert = FrozenBert.choose(
            checkpoint,
            layers=-1,
            poolings=(self.pooling,),
            max_length=self.max_length,
            truncation=self.truncation,
            batch_tokens=None,
            device=self.device,
            dtype="float32",
        )
        if self.unfrozen_layers is not None and self.unfrozen_layers > bert.n_layers:
            raise ValueError(
                f"unfrozen_layers={self.unfrozen_layers}, but {str(self.model)!r} has "
                f"{bert.n_layers} layers; allowed are 1 to {bert.n_layers}, or None for all."
            )
        return bert

    def _bert(self) -> FrozenBert:
        device, dtype = self._asked()
        if device != self.device:
            warnings.warn(
                f"Fitted with device={self.device!r}, which this machine does not have; running "
                "with 'auto'. Use set_params(device='auto') to make this permanent.",
                stacklevel=4,
            )
        layers = (self.n_layers_,)
        sizes = (self.n_layers_, self.hidden_size_, layers, (self.pooling,), self.max_length_)
        return FrozenBert(self._get_checkpoint(), *sizes, self.truncation, None, device, dtype)

    def _asked(self) -> tuple[str, DType]:
        return super()._asked()[0], self.dtype  # never half precision

    def _warn_of(
        self, plan: Any, report: dict[str, Any], max_length: int, at_least: int = 1
    ) -> None:
        warn_truncation(report, max_length, self.truncation, "Raise max_length to keep more.")
        texts = [plan.texts[row] for row in plan.row_of]
        unknown, n_tokens = plan.tokenized.n_unknown, plan.tokenized.n_tokens
        rows, name = plan.row_of, str(self.model)
        warn_unknown(texts, unknown[rows], n_tokens[rows], name, at_least=at_least)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        return tags
