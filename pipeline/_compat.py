"""Private names of other libraries, each with what breaks without it.

Those of torch and accelerate stay next to their use, in `bert/linear.py`, `bert/encoder.py` and
`bert/training.py`.
"""

import pickle
from typing import Any

from joblib.externals.loky import process_executor

# how joblib's files store arrays: old files need the class under this name
from joblib.numpy_pickle import NumpyArrayWrapper as NumpyArrayWrapper
from joblib.numpy_pickle import NumpyPickler as NumpyPickler
from joblib.numpy_pickle import NumpyUnpickler as NumpyUnpickler

# validates parameters before fit; without it call _validate_params
from sklearn.base import _fit_context as fit_context

# rows of lists, arrays, frames and sparse matrices; documented for developers of estimators
from sklearn.utils import _safe_indexing as rows_of
from sklearn.utils._param_validation import HasMethods as HasMethods
from sklearn.utils._param_validation import Hidden as Hidden
from sklearn.utils._param_validation import Interval as Interval
from sklearn.utils._param_validation import StrOptions as StrOptions

# checks input_features of get_feature_names_out; without it compare them by hand
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ModuleNotFoundError:  # before scikit-learn 1.9: nobody listens, and a search warns per fit

    class _Unheard:
        task_name = source_task_name = root_uuid = parent = None

        def subcontext(self, **_: Any) -> "_Unheard":
            return self

        def call_on_fit_task_begin(self, **_: Any) -> None:
            pass

        call_on_fit_task_end = call_on_fit_task_begin

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's, and tells nobody anything."""

        def _init_callback_context(self, **_: Any) -> _Unheard:
            return _Unheard()

    def with_callbacks(method: Any) -> Any:
        """Return the method."""
        return method


__all__ = [
    "CallbackSupportMixin",
    "check_feature_names_in",
    "fit_context",
    "is_linear_classifier",
    "keep_workers_that_grow",
    "rows_of",
    "with_callbacks",
]

# the unpickler in pure Python, whose steps can be replaced; without it keep a copy
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]

WorkerDiedError = process_executor.TerminatedWorkerError


def keep_workers_that_grow() -> None:
    """Stop loky from restarting workers whose memory grows."""
    process_executor._USE_PSUTIL = False


def is_linear_classifier(estimator: object) -> bool:
    """Whether a classifier is linear. Without it, ask for coef_ and intercept_."""
    from sklearn.linear_model._base import LinearClassifierMixin  # slow to import

    return isinstance(estimator, LinearClassifierMixin)
