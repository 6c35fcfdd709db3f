"""Texts as means of word2vec vectors."""

import re
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self
from zlib import crc32

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from pipeline._compat import HasMethods, Interval, fit_context
from pipeline.texts import check_texts

_COUNT = Interval(Integral, 1, None, closed="left")
_WORD = re.compile(r"\w+")
_MOST_WORDS = 10_000  # gensim silently drops the rest of a sentence (MAX_WORDS_IN_BATCH)


class Word2VecVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn each text into the mean of its word vectors.

    The vectors are word2vec's [1]_. Unlike in BERT, a word has the same one in every context.

    Parameters
    ----------
    vectors : gensim KeyedVectors, str, Path or None, default=None
        None trains them on the texts of `fit`, with gensim. A path is a file in word2vec's own
        format: binary if it ends in ``.bin`` or ``.bin.gz``, else text. Pass large vectors as a
        path, because ``clone`` copies an object.

    vector_size : int, default=300
        Width of the trained vectors. With ``vectors``, all parameters from here but ``lowercase``
        are unused.

    window : int, default=5
        Words on each side that predict a word.

    min_count : int, default=2
        Words that occur less often have no vector.

    skip_gram : bool, default=True
        Skip-gram, or the continuous bag of words (CBOW).

    epochs : int, default=50
        Passes over the texts; gensim's 5 learn little from a few thousand sentences.

    lowercase : bool, default=True
        Whether "Good" is "good". Vectors such as those of Google News need False.

    random_state : int, RandomState instance or None, default=None
        Seed of the training. An int gives the same bits each time on one machine.

    Attributes
    ----------
    vocabulary_ : dict of str to int
        Row of each word.

    vectors_ : ndarray of shape (n_words, n_features), float32
        The word vectors.

    See Also
    --------
    pipeline.compare : Scores it beside BERT.

    Notes
    -----
    Words are runs of letters, digits and underscores of any script. gensim is needed to train or
    read vectors, but not to transform.

    References
    ----------
    .. [1] Mikolov et al., "Distributed Representations of Words and Phrases and their
       Compositionality", 2013.

    Examples
    --------
    >>> texts = ["A lovely film.", "A dull film.", "A lovely, lovely day."]
    >>> vectorizer = Word2VecVectorizer(vector_size=5, random_state=0).fit(texts)
    >>> vectorizer.transform(["A film.", "Unheard!"]).shape
    (2, 5)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "vectors": [str, Path, HasMethods(["get_vector"]), None],
        "vector_size": [_COUNT],
        "window": [_COUNT],
        "min_count": [_COUNT],
        "skip_gram": ["boolean"],
        "epochs": [_COUNT],
        "lowercase": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        vectors: Any = None,
        *,
        vector_size: int = 300,
        window: int = 5,
        min_count: int = 2,
        skip_gram: bool = True,
        epochs: int = 50,
        lowercase: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.vectors = vectors
        self.vector_size = vector_size
        self.window = window
        self.min_count = min_count
        self.skip_gram = skip_gram
        self.epochs = epochs
        self.lowercase = lowercase
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Train the vectors on the texts, or use the given ones.

        Parameters
        ----------
        X : iterable of str, length n_texts
            List, array, Series or one-column DataFrame.
        y : None
            Ignored.

        Returns
        -------
        Word2VecVectorizer
            The fitted vectorizer.

        Raises
        ------
        TypeError, ValueError
            For invalid parameters and texts, or if no word occurs ``min_count`` times.
        OSError
            If the file of vectors does not exist.
        ImportError
            If gensim is needed and missing: ``pip install '.[word2vec]'``.
        """
        texts = check_texts(X)
        if not texts:
            raise ValueError(
                "Found array with 0 sample(s) while a minimum of 1 is required: X holds no text to "
                "fit on."
            )
        keyed = self._train(texts) if self.vectors is None else self._take()
        self.vocabulary_: dict[str, int] = dict(keyed.key_to_index)
        # a copy keeps gensim's own objects out of saved files
        self.vectors_: np.ndarray = np.array(keyed.vectors, dtype=np.float32)
        self._n_features_out = self.vectors_.shape[1]
        return self

    def transform(self, X: Iterable[str]) -> np.ndarray:
        """Return the mean vector of the words of each text.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_features), float32
            Zeros for a text without a known word.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        texts, rows = check_texts(X), self.vocabulary_
        means = np.zeros((len(texts), self.vectors_.shape[1]), dtype=np.float32)
        for mean, text in zip(means, texts, strict=True):
            if known := [rows[word] for word in self._words(text) if word in rows]:
                mean[:] = self.vectors_[known].mean(axis=0)
        return means

    def _words(self, text: str) -> list[str]:
        return _WORD.findall(text.lower() if self.lowercase else text)

    def _train(self, texts: list[str]) -> Any:
        gensim = import_gensim()
        sentences = [
            words[start : start + _MOST_WORDS]
            for words in map(self._words, texts)
            for start in range(0, len(words), _MOST_WORDS)
        ]
        model = gensim.models.Word2Vec(
            vector_size=self.vector_size,
            window=self.window,
            min_count=self.min_count,
            sg=int(self.skip_gram),
            epochs=self.epochs,
            seed=int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max)),
            workers=1,  # more would update in random order
            hashfxn=_stable_hash,
        )
        model.build_vocab(sentences)
        if not len(model.wv):
            raise ValueError(
                f"No word occurs min_count={self.min_count} times in the {len(texts)} texts, so no "
                "vector can be trained. Lower min_count, or give vectors."
            )
        model.train(sentences, total_examples=model.corpus_count, epochs=model.epochs)
        return model.wv

    def _take(self) -> Any:
        if not isinstance(self.vectors, str | Path):
            return self.vectors
        path = Path(self.vectors).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"vectors={str(self.vectors)!r} is not a file; give one in word2vec's format, or "
                "KeyedVectors."
            )
        binary = path.name.endswith((".bin", ".bin.gz"))
        try:
            return import_gensim().models.KeyedVectors.load_word2vec_format(
                str(path), binary=binary
            )
        except (ValueError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read as word vectors in word2vec's "
                f"{'binary' if binary else 'text'} format: {error}. A binary file must end in .bin "
                "or .bin.gz; load a file that gensim wrote by .save() with KeyedVectors.load(path)."
            ) from error

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def import_gensim() -> Any:
    """Return gensim, or raise ImportError with the cure."""
    try:
        import gensim.models
    except ImportError as error:
        raise ImportError(
            "word2vec needs gensim, which is not installed: pip install '.[word2vec]' in a "
            "checkout, or pip install gensim."
        ) from error
    return gensim


def _stable_hash(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass"))
