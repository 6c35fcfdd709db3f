"""Every error and warning of the package."""


class ArtifactError(ValueError):
    """A saved pipeline could not be opened, and why: another kind of file, damaged, not allowed, too new, or not what it was."""


ManifestError = ArtifactError  # the name that pipeline.report.lineage still imports


class ArtifactWarning(UserWarning):
    """A saved pipeline was opened, or written, with less certainty than it could have."""


class BadRowError(ValueError):
    """A row cannot be scored, and ``on_bad_row="error"``."""


class CacheWarning(UserWarning):
    """The embedding cache could not be used; everything was computed all the same."""


class CheckpointError(ValueError):
    """A model could not be found, read or verified."""


class DamagedFile(ValueError):
    """A file is not the one that its recorded hash stands for."""


class ExplanationError(ValueError):
    """A pipeline's decisions cannot be explained in the way that was asked for, and why."""


class FetchError(ValueError):
    """A model is neither in the hub cache nor to be had from the hub."""


class LabelWarning(UserWarning):
    """A classifier's ``predict`` does not always give the label that its probabilities favour."""


class PlanError(ValueError):
    """A folder holds the output of another run, or a plan that cannot be read."""


class StorageError(OSError):
    """A store could not be read or written: its name, the credentials or the network."""


class TextTooLongError(ValueError):
    """A text has more than ``max_length`` tokens, and ``truncation="error"``.

    Parameters
    ----------
    text : int
        Position of the text.
    n_tokens, max_length : int
        Its tokens, [CLS] and [SEP] included, and how many are allowed.
    """

    def __init__(self, text: int, n_tokens: int, max_length: int) -> None:
        super().__init__(
            f"text {text} has {n_tokens} tokens, more than max_length={max_length}, and truncation='error'. Shorten it, raise "
            "max_length, or choose truncation 'head', 'tail', 'head_tail' or 'window'."
        )
        self.text, self.n_tokens, self.max_length = text, n_tokens, max_length


class TrainingDivergedError(ValueError):
    """The loss became infinite or NaN."""


class TruncationWarning(UserWarning):
    """Texts were longer than ``max_length`` tokens and lost some of them."""
