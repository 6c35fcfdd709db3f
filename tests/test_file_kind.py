"""file_kind: a file is called by its name, whatever its extension says."""

import io
import zipfile

import joblib
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from pipeline.exceptions import ArtifactError
from pipeline.saved.opening import file_kind


@pytest.mark.parametrize("name", ["m.joblib", "m.skops", "m"])
def test_both_formats_are_known_by_their_content(name, tmp_path):
    joblib.dump(LogisticRegression(), tmp_path / name)
    assert file_kind(tmp_path / name) == "joblib"
    skops.io.dump(LogisticRegression(), tmp_path / name)
    assert file_kind(tmp_path / name) == "skops"


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (zipped(), "it is not a joblib file|zip archive"),
        (zipped(readme_txt="hello"), "it is a zip archive, whole or cut short, and no .skops file"),
        (zipped(schema_json="no json"), "no .skops file"),
        (zipped(schema_json="[]"), "no .skops file"),
        (zipped(schema_json="{}")[:40], "no .skops file"),
        (b"\x1f\x8b\x08\x00", "it is compressed"),
        (b"text,label\n", "it is not a joblib file"),
    ],
)
def test_anything_else_is_refused_as_what_it_is(content, message, tmp_path):
    (tmp_path / "m.joblib").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        file_kind(tmp_path / "m.joblib")


def test_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        file_kind(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"x\.joblib does not exist; train writes one"):
        file_kind(tmp_path / "x.joblib")
