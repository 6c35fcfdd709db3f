"""Save, load, inspect and verify a fitted Pipeline in one file."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

from pipeline.exceptions import ArtifactError, ArtifactWarning, CheckpointError
from pipeline.files import fetched, refuse_folder, sha256_of, temporary_for, where
from pipeline.notebook import block, facts, folded, tree
from pipeline.saved.allow_list import how_to_trust, not_allowed, trusted_names
from pipeline.saved.joblib_file import outline_of, read_contents, write_joblib
from pipeline.saved.manifest import (
    Manifest,
    describe,
    differing_versions,
    installed_versions,
    manifest_path,
    manifest_place,
    plain,
    put_in_place,
    put_scores,
    read_manifest,
    vectorizers_in,
)
from pipeline.saved.opening import check_probes, file_kind, make_probes, open_file
from pipeline.saved.signing import signature_place, signers, signing_key, trusted_keys
from pipeline.saved.skops_file import look_into_skops, skops_refused, write_skops

Format = Literal["joblib", "skops"]
Verify = Literal["probes", "sha256", "size"]


def save_pipeline(
    pipeline: BaseEstimator,
    path: str | os.PathLike,
    *,
    format: Format = "joblib",
    probes: Any = None,
    n_training_texts: int | None = None,
    scores: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    sign: Any = None,
) -> Path | str:
    """Write a fitted pipeline to one file, with a manifest beside it.

    Readers see the old or the new file, never half of one. The manifest, ``<file>.json``, holds its
    hash, versions, contents and answers to three probe texts, for `load_pipeline` to compare; the
    file alone is enough to predict.

    Parameters
    ----------
    pipeline : estimator
        Fitted: a Pipeline, or another estimator, such as a search or a `BertVectorizer`, which
        becomes a Pipeline of one step.
    path : str or Path
        For example ``models/sentiment.joblib``; missing folders are created. Or an address that
        fsspec knows, such as ``"s3://bucket/sentiment.joblib"``.
    format : {"joblib", "skops"}, default="joblib"
        ``"joblib"`` is an ordinary joblib file, whose weights are memory-mapped when opened.
        ``"skops"`` executes nothing when opened, and is read into memory as a whole.
    probes : list of str, DataFrame or array, optional
        A few input rows for the self-test, stored as they are. Default: three texts.
    n_training_texts : int, optional
        For the manifest. Default: the number of texts that the vectorizer was fitted on.
    scores : mapping, optional
        For the manifest: any scores of the pipeline.
    columns : mapping, optional
        For the manifest: the columns ``"text"`` and ``"label"`` in your tables, which commands use
        as defaults.
    sign : path or Ed25519PrivateKey, optional
        Sign the manifest with this private key: a PEM file, or a key of the package cryptography.
        The signature is in ``<file>.json.sig``.

    Returns
    -------
    Path or str
        Where it was written: a local Path, or the address.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    OSError
        If the path is a folder or cannot be written.
    ValueError
        For probes that the pipeline cannot predict on, and for lambdas.
    CheckpointError
        If a loaded pipeline's weights are not those it was saved with.

    Warns
    -----
    ArtifactWarning
        If `load_pipeline` will refuse a name in the file, or there is no self-test.
    """
    if isinstance(pipeline, type) or not hasattr(pipeline, "fit"):
        raise TypeError(f"pipeline is {pipeline!r:.100}; expected a fitted estimator.")
    if format not in ("joblib", "skops"):
        raise ValueError(f"format={format!r}; allowed are 'joblib' and 'skops'.")
    check_is_fitted(pipeline)
    if not isinstance(pipeline, Pipeline):
        pipeline = make_pipeline(pipeline)
    place, key = where(path), signing_key(sign)
    refuse_folder(place, "sentiment.joblib")
    for vectorizer in vectorizers_in(pipeline):  # does not spread damaged weights
        vectorizer.verify_weights()
    described = describe(pipeline, n_training_texts, columns)
    described["probes"] = _probes(pipeline, probes, described["vectorizers"])
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(place) as temporary:
        if format == "skops":
            write_skops(pipeline, temporary)
            refused = skops_refused(temporary)
        else:
            write_joblib(pipeline, temporary)
            refused = not_allowed(read_contents(temporary).names)
        if nameless := [name for name in refused or () if "<" in name]:
            raise ValueError(
                f"pipeline contains {', '.join(nameless)}, which cannot be found by name when the "
                "file is opened. Define it at the top level of a module."
            )
        manifest = Manifest(
            file=PurePath(place).name,
            format=format,
            size=temporary.stat().st_size,
            sha256=sha256_of(temporary),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=installed_versions(),
            scores=plain(scores, "scores"),
            **described,
        )
        put_in_place(temporary, place, manifest, key)
    if refused:
        warnings.warn(
            f"load_pipeline will refuse {place}: it names {', '.join(refused)}, which are not on "
            "the list of what a saved pipeline may name. Open it with load_pipeline(path, "
            f"{how_to_trust(refused)}), here and elsewhere.",
            ArtifactWarning,
            stacklevel=2,
        )
    return place


def record_scores(path: str | os.PathLike, scores: Mapping[str, Any], sign: Any = None) -> None:
    """Write scores into the manifest of a saved pipeline, and sign it again."""
    put_scores(where(path), plain(scores, "scores"), signing_key(sign))


def load_pipeline(
    path: str | os.PathLike,
    *,
    verify: Verify = "probes",
    sha256: str | None = None,
    trusted: str | Iterable[str] = (),
    trusted_key: Any = None,
) -> Pipeline:
    """Open and verify a file written by `save_pipeline`.

    The checks come in this order: the kind of file; size and hash by the manifest; the signature,
    with `trusted_key`; every name in the file, against a list of what a saved pipeline may name.
    Only then is it unpickled, without following any other name. Last come versions and a self-test:
    the answers to the probe texts must be those at saving. Processes share the weights, which are
    memory-mapped.

    Parameters
    ----------
    path : str or Path
        The file, or its address; also one by ``joblib.dump`` or skops, without a manifest.
    verify : {"probes", "sha256", "size"}, default="probes"
        Self-test, hash and size; hash and size; or only size.
    sha256 : str, optional
        The file's hash, known from another source; the manifest is only as trustworthy as the file.
    trusted : str or iterable of str
        More names that this file may use, such as ``"my_package.MyTransformer"``, and
        ``"lightgbm"``, ``"xgboost"``, ``"catboost"`` or ``"imblearn"`` for their estimators.
    trusted_key : path, Ed25519PublicKey or list of these, optional
        Open only files that one of these public keys signed: PEM files, or keys of the package
        cryptography. The hash is then always checked.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Ready for ``predict``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ArtifactError
        If one of the checks fails; the message says which.

    Warns
    -----
    ArtifactWarning
        If there is no manifest, or it was saved with other versions.
    """
    if verify not in ("probes", "sha256", "size"):
        raise ValueError(f"verify={verify!r}; allowed are 'probes', 'sha256' and 'size'.")
    place = where(path)
    pipeline, manifest = _open(place, verify != "size", sha256, trusted, trusted_key)
    differing = _differing(pipeline, manifest)
    difference = None
    if verify == "probes" and manifest is not None and manifest.probes is not None:
        with _self_test(place, differing):
            difference = check_probes(pipeline, manifest.probes)
    if manifest is None:
        warnings.warn(
            f"{place} has no manifest ({PurePath(place).name}.json): its names were checked, but "
            "not whether it is the file that was saved. save_pipeline writes one.",
            ArtifactWarning,
            stacklevel=2,
        )
    if differing:
        tested = (
            "It was not tested on its probe texts."
            if difference is None
            else f"Its answers to the probe texts are unchanged (to {difference:.1g})."
        )
        warnings.warn(
            f"{place} was made with {'; '.join(differing)}. {tested}", ArtifactWarning, stacklevel=2
        )
    return pipeline


def verify_pipeline(
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    trusted: str | Iterable[str] = (),
    trusted_key: Any = None,
) -> dict[str, Any]:
    """Check all of a saved file: hashes, signature, names, weights, probe texts.

    Parameters
    ----------
    path, sha256, trusted, trusted_key
        As in `load_pipeline`.

    Returns
    -------
    dict
        ``size``, ``sha256`` (of the file), ``names`` (how many, all allowed), ``weights`` (the
        sha256 of each model's weights), ``versions`` (those that differ) and ``probes``: ``n``,
        ``difference`` and ``tolerance``, or None if it has none.

    Raises
    ------
    ArtifactError
        At the first failed check, or if there is no manifest to compare with.
    """
    place = where(path)
    pipeline, manifest = _open(place, True, sha256, trusted, trusted_key)
    if manifest is None:
        raise ArtifactError(
            f"{place} has no manifest ({PurePath(place).name}.json), so there is nothing to verify "
            "it by."
        )
    differing = _differing(pipeline, manifest)
    probes = manifest.probes
    with _self_test(place, differing):
        weights = {
            vectorizer.source_["model"]: vectorizer.verify_weights()
            for vectorizer in vectorizers_in(pipeline)
        }
        difference = None if probes is None else check_probes(pipeline, probes)
    return {
        "size": manifest.size,
        "sha256": manifest.sha256,
        "names": len(inspect_pipeline(place)["names"]),
        "weights": weights,
        "versions": differing,
        "probes": probes
        and {
            "n": len(probes["inputs"]),
            "difference": difference,
            "tolerance": probes["tolerance"],
        },
    }


class Inspection(dict[str, Any]):
    """The dict of `inspect_pipeline`, shown in a notebook as facts."""

    def __repr__(self) -> str:
        facts = "; ".join(f"{name.lower()}: {value}" for name, value in self._facts().items())
        return f"Inspection({facts}; a dict of {', '.join(self)})"

    def _facts(self) -> dict[str, str]:
        names, refused = self["names"], self["refused"]
        named = "all allowed" if refused == [] else "refused ones unknown without skops"
        if refused or self["problems"]:
            named = f"REFUSED by load_pipeline: {', '.join([*(refused or ()), *self['problems']])}"
        return {
            "File": self["path"],
            "Format": f"{self['format']}, {self['size'] / 1e6:,.1f} MB",
            "Names": f"{len(names)}, {named}",
            "Arrays": f"{len(self['arrays'])}",
            "Manifest": "none" if self["manifest"] is None else "unverified, beside the file",
            "Signature": ", ".join(self["signed_by"] or ["none"]),
        }

    def _repr_html_(self) -> str:
        folds = [("names", dict(enumerate(self["names"], 1))), ("manifest", self["manifest"] or {})]
        folds.append(("contents", self["contents"]))
        return block(
            facts(self._facts()),
            *(folded(name.capitalize(), tree(value)) for name, value in folds if value),
        )


def inspect_pipeline(path: str | os.PathLike) -> Inspection:
    """Look into a saved file without unpickling it.

    Nothing in it is called or trusted, and nothing imported except scikit-learn's modules.

    Parameters
    ----------
    path : str or Path
        A file or its address; also one that `load_pipeline` refuses.

    Returns
    -------
    Inspection
        A dict: ``path``, ``format``, ``size``, ``names`` (all classes and functions in it),
        ``refused`` (those that `load_pipeline` would refuse; None for a .skops file without skops),
        ``problems`` (misuse of allowed names, also refused), ``arrays`` (shape, dtype and bytes of
        each; joblib only), ``contents`` (the objects as nested dicts and lists, long values cut),
        ``manifest`` (not compared with the file, or None) and ``signed_by`` (the public keys that
        the signature claims, unchecked, or None).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ArtifactError
        If it is another kind of file, or damaged.
    """
    place = where(path)
    arrays: list[dict[str, Any]] = []
    beside = manifest_place(place)
    with fetched(place, beside, signature_place(beside)) as file:
        kind = file_kind(file)
        try:
            manifest = read_manifest(file)
        except ArtifactError as error:
            manifest = {"error": str(error).replace(str(file), str(place))}
        if kind == "skops":
            names, refused, root, problems = look_into_skops(file)
        else:
            contents = read_contents(file)
            names, root = list(contents.names), contents.root
            refused, problems = not_allowed(names), list(contents.problems)
            arrays = [
                {"shape": array.shape, "dtype": array.dtype, "n_bytes": array.n_bytes}
                for array in contents.arrays
            ]
        found = {
            "path": str(place),
            "format": kind,
            "size": file.stat().st_size,
            "names": names,
            "refused": refused,
            "problems": problems,
            "arrays": arrays,
            "contents": outline_of(root),
            "manifest": manifest,
            "signed_by": signers(manifest_path(file)),
        }
        return Inspection(found)


def _open(
    place: Path | str, hashed: bool, sha256: str | None, trusted: str | Iterable[str], key: Any
) -> tuple[Pipeline, Manifest | None]:
    keys = None if key is None else trusted_keys(key)
    opened, manifest = open_file(
        place,
        hashed=hashed or keys is not None,
        sha256=sha256,
        trusted=trusted_names(trusted),
        keys=keys,
    )
    if not isinstance(opened, Pipeline):
        raise ArtifactError(f"{place} holds a {type(opened).__name__}, not a Pipeline.")
    return opened, manifest


def _differing(pipeline: Pipeline, manifest: Manifest | None) -> list[str]:
    if manifest is not None:
        return differing_versions(manifest.versions)
    made_with = (vectorizer.made_with for vectorizer in vectorizers_in(pipeline))
    return differing_versions(next(filter(None, made_with), {}))


@contextlib.contextmanager
def _self_test(place: Path | str, differing: list[str]) -> Iterator[None]:
    """Turn errors inside into a failed self-test of the file."""
    try:
        yield
    except (ArtifactError, CheckpointError) as error:
        versions = f" It was made with {'; '.join(differing)}." if differing else ""
        raise ArtifactError(f"{place} fails its self-test: {error}.{versions}") from error


def _probes(
    pipeline: Pipeline, rows: Any, vectorizers: list[dict[str, Any]]
) -> dict[str, Any] | None:
    half = any(vectorizer["dtype"] != "float32" for vectorizer in vectorizers)
    try:
        probes = dict(plain(make_probes(pipeline, rows, half=half), "probes"))
        check_probes(pipeline, probes)
        return probes
    except ArtifactError as error:
        reason = (
            f"The pipeline answers differently each time ({error}), so its file has no self-test. "
            "Set its random_state, or use another classifier."
        )
    except Exception as error:
        if rows is not None:
            raise ValueError(
                f"The pipeline cannot predict on these probes ({type(error).__name__}: {error})."
            ) from error
        first_line = (str(error).splitlines() or [""])[0]
        reason = (
            f"The pipeline does not predict on plain texts ({type(error).__name__}: {first_line}), "
            "so its file has no self-test. Give it a few rows: save_pipeline(..., probes=X[:3])."
        )
    warnings.warn(reason, ArtifactWarning, stacklevel=3)
    return None
