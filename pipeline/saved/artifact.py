"""Save, load, inspect and verify a fitted Pipeline in one file."""

import io
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Literal

import joblib
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from pipeline.exceptions import (
    ArtifactError,
    ArtifactWarning,
    CheckpointError,
    ContentsError,
    ManifestError,
    ProbeError,
)
from pipeline.files import fetched, refuse_folder, sha256_of, temporary_for, where
from pipeline.saved.joblib_file import not_allowed, outline_of, outline_of_skops, read_contents
from pipeline.saved.manifest import (
    Manifest,
    describe,
    differing_versions,
    holds_memmap,
    installed_versions,
    manifest_place,
    plain,
    put_in_place,
    put_scores,
    vectorizers_in,
)
from pipeline.saved.opening import file_kind, open_file
from pipeline.saved.probes import check_probes, make_probes
from pipeline.saved.skops_file import skops_names, skops_refused, skops_schema, write_skops

Format = Literal["joblib", "skops"]
Verify = Literal["probes", "sha256", "size"]


def save_pipeline(
    pipeline: Pipeline,
    path: str | os.PathLike,
    *,
    format: Format = "joblib",
    probes: Any = None,
    n_training_texts: int | None = None,
    scores: Mapping[str, Any] | None = None,
) -> Path | str:
    """Write a fitted pipeline to one file, with a manifest beside it: whole or not at all.

    The file is written under another name, flushed to the disk and renamed: no reader ever sees half of it, and one that has the
    old file open keeps it. The manifest, ``<file>.json``, holds its hash, its versions, what is inside, and what it says of three
    probe texts; `load_pipeline` compares. The file alone is enough to predict.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted.
    path : str or Path
        Such as ``models/sentiment.joblib``; missing folders are made, and ``~`` is the home folder. Or an address that fsspec
        knows, such as ``"s3://bucket/sentiment.joblib"``, to which the written file is uploaded.
    format : {"joblib", "skops"}, default="joblib"
        ``"joblib"`` is an ordinary joblib file, whose weights are memory-mapped when it is opened. ``"skops"`` executes nothing
        when it is opened, by anyone's loader, and is read into memory as a whole.
    probes : list of str, DataFrame or array, optional
        A few rows of what the pipeline predicts on, for the self-test; they are stored as they are. Three texts by default, which
        do for every pipeline that takes texts.
    n_training_texts : int, optional
        For the manifest; by default the number of texts that the vectorizer was fitted on.
    scores : mapping, optional
        For the manifest: whatever numbers tell how good it is.

    Returns
    -------
    Path or str
        Where it was written: a Path of this machine, or the address.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    OSError
        For a folder, and for what cannot be written.
    ValueError
        For probes that the pipeline cannot predict on.
    CheckpointError
        Where the pipeline came from a file, and its weights are not those it was made with.
    """
    if not isinstance(pipeline, Pipeline):
        raise TypeError(
            f"pipeline is a {type(pipeline).__name__}; a fitted scikit-learn Pipeline is expected."
        )
    if format not in ("joblib", "skops"):
        raise ValueError(f"format={format!r}; allowed are 'joblib' and 'skops'.")
    check_is_fitted(pipeline)
    place = where(path)
    refuse_folder(place, "sentiment.joblib")
    for vectorizer in vectorizers_in(pipeline):  # what came from a damaged file is not spread
        vectorizer.verify_weights()
    described = describe(pipeline)
    described["probes"] = _probes(pipeline, probes, described["vectorizers"])
    if n_training_texts is not None:
        described["n_training_texts"] = int(n_training_texts)
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(place) as temporary:
        if format == "skops":
            write_skops(_without_memmaps(pipeline), temporary)
        else:
            with temporary.open("wb") as file:
                joblib.dump(pipeline, file)
        manifest = Manifest(
            file=PurePath(place).name,
            format=format,
            size=temporary.stat().st_size,
            sha256=sha256_of(temporary),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=installed_versions(),
            scores=None if scores is None else plain(scores, "scores"),
            **described,
        )
        put_in_place(temporary, place, manifest)
    return place


def record_scores(path: str | os.PathLike, scores: Mapping[str, Any]) -> None:
    """Write scores into the manifest of a saved pipeline, which is itself left as it is.

    Parameters
    ----------
    path : str or Path
        A file written by `save_pipeline`.
    scores : mapping
        Whatever numbers tell how good it is, as for `save_pipeline`.
    """
    put_scores(where(path), plain(scores, "scores"))


def load_pipeline(
    path: str | os.PathLike,
    *,
    verify: Verify = "probes",
    sha256: str | None = None,
    trusted: Iterable[str] = (),
) -> Pipeline:
    """Open a file written by `save_pipeline`, and be sure of it.

    In this order: what kind of file it is; its size and hash by the manifest; every name in it, against a list of what a saved
    pipeline may name; only then is it unpickled, by an unpickler that follows no other name; then its versions; and last a
    self-test: it must say of the probe texts what it said when it was saved. The weights are memory-mapped:
    opening is fast, and processes share them.

    Parameters
    ----------
    path : str or Path
        The file, or its address, from which it is fetched and read into memory; of ``joblib.dump`` or skops too, which then has
        no manifest to be compared with.
    verify : {"probes", "sha256", "size"}, default="probes"
        How far to go: self-test, hash and size; hash and size; or size alone. The names are always checked.
    sha256 : str, optional
        The file's hash as you know it from elsewhere; the manifest beside a file is as trustworthy as the file.
    trusted : iterable of str
        Names that this file may use beside those of the list, such as ``"my_package.MyTransformer"``.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Ready for ``predict``.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ArtifactError
        Where it is another kind of file, damaged, not the one that was saved, names what is not allowed, is of a newer version,
        or fails its self-test; the message says which.

    Warns
    -----
    ArtifactWarning
        Where there is no manifest, or it was made with other versions.
    """
    if verify not in ("probes", "sha256", "size"):
        raise ValueError(f"verify={verify!r}; allowed are 'probes', 'sha256' and 'size'.")
    place = where(path)
    pipeline, manifest = _open(place, hashed=verify != "size", sha256=sha256, trusted=trusted)
    differing = differing_versions(_made_with(pipeline, manifest))
    difference = None
    if verify == "probes" and manifest is not None and manifest.probes is not None:
        try:
            difference = check_probes(pipeline, manifest.probes)
        except ProbeError as error:
            versions = f" It was made with {'; '.join(differing)}." if differing else ""
            raise ArtifactError(f"{place} fails its self-test: {error}.{versions}") from error
    if manifest is None:
        warnings.warn(
            f"{place} has no manifest ({_manifest_name(place)}): the names in it were checked, but not whether it is the file "
            "that was saved. save_pipeline writes one.",
            ArtifactWarning,
            stacklevel=2,
        )
    if differing:
        tested = (
            "It was not tested on its probe texts."
            if difference is None
            else f"Its probe texts come out as they did then (to {difference:.1g})."
        )
        warnings.warn(
            f"{place} was made with {'; '.join(differing)}. {tested}", ArtifactWarning, stacklevel=2
        )
    return pipeline


def verify_pipeline(
    path: str | os.PathLike, *, sha256: str | None = None, trusted: Iterable[str] = ()
) -> dict[str, Any]:
    """Check everything about a saved file that can be checked: hashes, names, weights, probe texts.

    Parameters
    ----------
    path, sha256, trusted
        As for `load_pipeline`.

    Returns
    -------
    dict
        ``size``, ``sha256`` (of the file), ``names`` (how many, all allowed), ``weights`` (the sha256 of each model's weights),
        ``versions`` (those that differ) and ``probes``: ``n``, ``difference`` and ``tolerance``, or None where it has none.

    Raises
    ------
    ArtifactError
        At the first thing that is wrong; also where there is no manifest to compare with.
    """
    place = where(path)
    pipeline, manifest = _open(place, hashed=True, sha256=sha256, trusted=trusted)
    if manifest is None:
        raise ArtifactError(
            f"{place} has no manifest ({_manifest_name(place)}), so there is nothing to verify it by."
        )
    weights = {}
    try:
        for vectorizer in vectorizers_in(pipeline):
            weights[vectorizer.source_["model"]] = vectorizer.verify_weights()
        difference = None if manifest.probes is None else check_probes(pipeline, manifest.probes)
    except (CheckpointError, ProbeError) as error:
        raise ArtifactError(f"{place} fails its self-test: {error}.") from error
    return {
        "size": manifest.size,
        "sha256": manifest.sha256,
        "names": len(inspect_pipeline(place)["names"]),
        "weights": weights,
        "versions": differing_versions(_made_with(pipeline, manifest)),
        "probes": None
        if manifest.probes is None
        else {
            "n": len(manifest.probes["inputs"]),
            "difference": difference,
            "tolerance": manifest.probes["tolerance"],
        },
    }


def inspect_pipeline(path: str | os.PathLike) -> dict[str, Any]:
    """Look into a saved file without unpickling it: nothing in it is called or trusted, nothing imported but scikit-learn's own.

    Parameters
    ----------
    path : str or Path
        A joblib or skops file, or its address; also one that `load_pipeline` refuses.

    Returns
    -------
    dict
        ``path``, ``format``, ``size``, ``names`` (every class and function that it names), ``refused`` (those of them that
        `load_pipeline` would refuse; None for a .skops file where skops is not installed), ``arrays`` (shape, dtype and bytes of
        each; joblib only), ``contents`` (the objects as nested dicts and lists, long values cut) and ``manifest`` (a dict as it
        stands beside the file, or None; nobody checked it here).

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ArtifactError
        Where it is another kind of file, or damaged.
    """
    place = where(path)
    with fetched(place, manifest_place(place)) as file:
        return {"path": str(place), **_inspect(file, str(place))}


# ---- the parts


def _inspect(path: Path, name: str) -> dict[str, Any]:
    kind = file_kind(path)
    try:
        found = Manifest.read(path)
        manifest = None if found is None else json.loads(found.to_json())
    except ManifestError as error:
        manifest = {"error": str(error).replace(str(path), name)}
    if kind == "skops":
        schema = skops_schema(path)
        names, refused, arrays, contents = (
            skops_names(schema),
            skops_refused(path),
            [],
            outline_of_skops(schema),
        )
    else:
        try:
            read = read_contents(path)
        except ContentsError as error:
            raise ArtifactError(
                f"{path} cannot be read: {error}. Copy or train it again."
            ) from error
        names, refused, contents = list(read.names), not_allowed(read.names), outline_of(read.root)
        arrays = [{"shape": a.shape, "dtype": a.dtype, "n_bytes": a.n_bytes} for a in read.arrays]
    return {
        "format": kind,
        "size": path.stat().st_size,
        "names": names,
        "refused": refused,
        "arrays": arrays,
        "contents": contents,
        "manifest": manifest,
    }


def _open(
    place: Path | str, *, hashed: bool, sha256: str | None, trusted: Iterable[str]
) -> tuple[Pipeline, Manifest | None]:
    opened, manifest = open_file(place, hashed=hashed, sha256=sha256, trusted=frozenset(trusted))
    if not isinstance(opened, Pipeline):
        raise ArtifactError(f"{place} holds a {type(opened).__name__}, not a Pipeline.")
    return opened, manifest


def _manifest_name(place: Path | str) -> str:
    return PurePath(manifest_place(place)).name


def _made_with(pipeline: Pipeline, manifest: Manifest | None) -> Mapping[str, str]:
    if manifest is not None:
        return manifest.versions
    return next(
        (vectorizer.made_with for vectorizer in vectorizers_in(pipeline) if vectorizer.made_with),
        {},
    )


def _probes(
    pipeline: Pipeline, rows: Any, vectorizers: list[dict[str, Any]]
) -> dict[str, Any] | None:
    half = any(vectorizer["dtype"] != "float32" for vectorizer in vectorizers)
    try:
        return dict(plain(make_probes(pipeline, rows, half=half), "probes"))
    except Exception as error:
        if rows is not None:
            raise ValueError(
                f"The pipeline cannot predict on these probes ({type(error).__name__}: {error})."
            ) from error
        first_line = (str(error).splitlines() or [""])[0]
        warnings.warn(
            f"The pipeline does not predict on plain texts ({type(error).__name__}: {first_line}), so its file has no self-test. "
            "Give it a few rows: save_pipeline(..., probes=X[:3]).",
            ArtifactWarning,
            stacklevel=3,
        )
        return None


def _without_memmaps(pipeline: Pipeline) -> Pipeline:
    """Return a pipeline without numpy.memmap, which skops writes and cannot read: by way of a joblib file in memory."""
    if not holds_memmap(pipeline):
        return pipeline
    file = io.BytesIO()
    joblib.dump(pipeline, file)
    file.seek(0)
    copy: Pipeline = joblib.load(file)
    return copy
