"""Hub id -> folder of a model's files: the hub cache, then the hub. Knows huggingface_hub; used by checkpoint."""

import re
from pathlib import Path

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# What a tokenizer may be rebuilt from where a checkpoint has no tokenizer.json: vocabularies, then settings.
VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model")
TOKENIZER_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
HUB_TIMEOUT = 10  # seconds to wait for the hub's answer to one request
_COMMIT = re.compile(r"[0-9a-f]{40}")


class FetchError(ValueError):
    """A model is neither in the hub cache nor to be had from the hub."""


def fetch(model: str, revision: str | None, local_files_only: bool) -> tuple[Path, str, str | None]:
    """Find the files of a model in the hub cache, or fetch them from the hub.

    Parameters
    ----------
    model : str
        Hub id.
    revision : str or None
        Branch, tag or commit; a full commit that is cached is used without any request.
    local_files_only : bool
        Never ask the hub; so too under ``HF_HUB_OFFLINE``.

    Returns
    -------
    folder : Path
        The snapshot.
    kind : {"hub cache", "hub"}
        Whether the hub was asked.
    commit : str or None
        Forty hexadecimal digits.

    Raises
    ------
    FetchError
        Where the files are not to be had; the message says where was looked, why not, and what to do.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, is_offline_mode, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    # the weights last: a snapshot that has them is whole
    wanted = [CONFIG, TOKENIZER, *VOCABULARIES, *TOKENIZER_SETTINGS, WEIGHTS]
    offline = local_files_only or is_offline_mode()
    reason = "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)"
    if not offline and not _cached_commit(model, revision):
        try:
            info = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT)
            files = {sibling.rfilename for sibling in info.siblings or []}
            if WEIGHTS not in files:
                raise FetchError(
                    f"{model!r} has no {WEIGHTS} on the hub, only {', '.join(sorted(files)[:8])}: other weight files can execute "
                    "code when loaded and are never opened here."
                )
            paths = [
                hf_hub_download(model, name, revision=info.sha, etag_timeout=HUB_TIMEOUT) for name in wanted if name in files
            ]
            # by the branch or tag once more: only so does the cache remember which commit it stands for
            hf_hub_download(model, CONFIG, revision=revision, etag_timeout=HUB_TIMEOUT)
            return Path(paths[0]).parent, "hub", info.sha
        except FetchError:
            raise
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError, KeyError) as error:  # ValueError: a login page for JSON
            told = (str(error).strip() or "no reason given").splitlines()[0]
            reason = f"the hub did not deliver it ({type(error).__name__}: {told})"
    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=wanted))
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder} is incomplete")
    except (LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FetchError(
            f"Model {model!r}{at} is not here: it is no folder, no installed copy, not in the hub cache "
            f"({constants.HF_HUB_CACHE}), and {reason}; endpoint {constants.ENDPOINT}. Check the spelling and the connection, "
            "or copy the model's files to this machine and give their folder as model=."
        ) from error
    return folder, "hub cache", folder.name if _COMMIT.fullmatch(folder.name) else None


def is_hub_id(model: str) -> bool:
    """Whether the hub could have a model of this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not model.endswith("\n")


def is_cached(model: str) -> bool:
    """Whether the weights of a model's default branch are in the hub cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, WEIGHTS), str)


def _cached_commit(model: str, revision: str | None) -> bool:
    """Whether a full commit was asked for and its weights are in the cache: then no request is needed."""
    from huggingface_hub import try_to_load_from_cache

    if revision is None or not _COMMIT.fullmatch(revision):
        return False
    return isinstance(try_to_load_from_cache(model, WEIGHTS, revision=revision), str)
