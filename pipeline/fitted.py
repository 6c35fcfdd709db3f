"""State shared by fitted models: device, weights, and what is saved."""

import os
from typing import Any, ClassVar

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from pipeline.bert.encoder import DType, choose_device, device_here
from pipeline.checkpoints.checkpoint import Checkpoint, resolve
from pipeline.exceptions import CheckpointError
from pipeline.saved.manifest import installed_versions, refuse_newer_state


class SavedModel(BaseEstimator):
    """An estimator that carries the checkpoint it was fitted with."""

    model: Any
    device: str
    dtype: DType
    revision: str | None
    local_files_only: bool
    source_: dict[str, Any]
    _checkpoint: Checkpoint | None
    _made_with: dict[str, Any] | None
    _state_version: ClassVar[int] = 1  # raise it when older programs cannot read the state

    @property
    def made_with(self) -> dict[str, str] | None:
        """Library versions that a loaded model was fitted with, or None."""
        return self.__dict__.get("_made_with")

    def runs_on(self) -> tuple[str, str]:
        """Return the device and precision in use on this machine.

        Returns
        -------
        device, dtype : str
            For example ``"cuda:0"`` and ``"float32"``.
        """
        device, dtype = choose_device(*self._asked())
        return str(device), str(dtype).removeprefix("torch.")

    def verify_weights(self) -> str:
        """Check the weights against their hash.

        Returns
        -------
        str
            The sha256 of the weights.

        Raises
        ------
        NotFittedError
            Before `fit`.
        CheckpointError
            If the model cannot be found or differs.
        """
        check_is_fitted(self)
        return self._get_checkpoint().verify()

    def _asked(self) -> tuple[str, DType]:
        """Return device and dtype, or "auto" if not available here."""
        if self.made_with is None:
            return self.device, self.dtype
        return device_here(self.device, self.dtype)

    def _get_checkpoint(self) -> Checkpoint:
        if self._checkpoint is not None:
            return self._checkpoint
        found = resolve(
            str(self.model),
            revision=self.source_["revision"] or self.revision,
            local_files_only=self.local_files_only,
        )
        hashes = {**self.source_["sha256"], **self.source_.get("modules", {})}
        of_found = {**found.source["sha256"], **found.modules_sha256}
        if differing := [name for name, sha in hashes.items() if of_found.get(name) != sha]:
            raise CheckpointError(
                f"This vectorizer was fitted with another {self.model!r} than the one found now "
                f"({found.source['kind']}): {', '.join(differing)} differ in sha256, so its "
                "features would be wrong. Restore the original files, or fit again."
            )
        self._checkpoint = found
        return found

    def _carried(self) -> Checkpoint | None:
        return self._get_checkpoint()

    def __sklearn_is_fitted__(self) -> bool:
        return "source_" in self.__dict__

    def __getstate__(self) -> dict[str, Any]:
        """Return plain values and one uint8 array, always the same object."""
        state: dict[str, Any] = dict(super().__getstate__())
        for name in ("_skl_callbacks", "_checkpoint", "_to_save", "_search", "_sentence"):
            state.pop(name, None)
        if self.__sklearn_is_fitted__():
            # the class of a Path differs by system, and is on no allow-list
            if isinstance(self.model, str | os.PathLike):
                state["model"] = str(self.model)
            made_with = self._made_with or installed_versions()
            state["_made_with"] = {**made_with, "state_version": self._state_version}
            if (carried := self._carried()) is not None:
                state["_checkpoint"] = carried.to_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        made_with = state.get("_made_with")
        if made_with is not None:
            refuse_newer_state(type(self).__name__, made_with, self._state_version)
        carried = state.pop("_checkpoint", None)
        super().__setstate__(state)
        if made_with is not None:
            if carried is not None:
                carried = Checkpoint.from_state(carried, self.source_)
            self._checkpoint = self._to_save = carried
