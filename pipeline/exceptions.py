"""Errors and warnings of the package."""


class CheckpointError(ValueError):
    """A model could not be found, read or verified."""


class FetchError(CheckpointError):
    """A model is not cached and could not be downloaded."""


class DamagedFile(ValueError):
    """A file does not match its recorded hash."""


class TextTooLongError(ValueError):
    """Text number ``text`` exceeds ``max_length`` tokens under ``truncation="error"``."""

    def __init__(self, text: int, n_tokens: int, max_length: int) -> None:
        super().__init__(
            f"text {text} has {n_tokens} tokens, more than max_length={max_length}, and "
            "truncation='error'. Shorten it, raise max_length, or choose truncation 'head', "
            "'tail', 'head_tail' or 'window'."
        )
        self.text, self.n_tokens, self.max_length = text, n_tokens, max_length


class TruncationWarning(UserWarning):
    """Texts lost the tokens beyond ``max_length``."""


class UnknownTokensWarning(UserWarning):
    """Many texts contain characters that are not in the model's vocabulary."""


class ModelWarning(UserWarning):
    """A model folder recommends another setting than the one in use."""


class LeakWarning(UserWarning):
    """Scored texts also occur in the training part."""


class CacheWarning(UserWarning):
    """The embedding cache could not be used, without effect on results."""


class ExplanationError(ValueError):
    """A pipeline cannot be explained by the requested method."""


class LabelWarning(UserWarning):
    """A classifier's ``predict`` differs from its most probable class."""


class TrainingDivergedError(ValueError):
    """The training loss became infinite or NaN."""


class ArtifactError(ValueError):
    """A saved pipeline is damaged, refused, too new or changed."""


class ArtifactWarning(UserWarning):
    """A saved pipeline was written or opened with reservations."""


class BadRowError(ValueError):
    """A row cannot be scored, and ``on_bad_row="error"``."""


class PlanError(ValueError):
    """A folder holds another run's output or an unreadable plan."""


class StorageError(OSError):
    """A remote store could not be read or written."""
