"""Published hashes, SHA256SUMS and source.json."""

import hashlib

import pytest

from pipeline.checkpoints.checkpoint import check_sums, read_record, read_sums, verify_folder
from pipeline.checkpoints.hub import difference
from pipeline.exceptions import DamagedFile

BODY = b"hello\n"
SHA256 = hashlib.sha256(BODY).hexdigest()
GIT = "ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin


@pytest.fixture
def folder(tmp_path):
    """Give a folder of two files that its SHA256SUMS lists."""
    (tmp_path / "a.json").write_bytes(BODY)
    (tmp_path / "b.json").write_bytes(BODY)
    (tmp_path / "SHA256SUMS").write_text(f"{SHA256}  a.json\n{SHA256}  b.json\n")
    return tmp_path


@pytest.mark.parametrize(
    ("published", "kind", "found"), [("0" * 64, "sha256", SHA256), ("0" * 40, "git hash", GIT)]
)
def test_a_difference_names_the_file_and_both_hashes(published, kind, found, folder):
    assert (
        difference(folder / "a.json", published)
        == f"a.json has {kind} {found}, expected {published}"
    )
    assert (
        difference(folder / "c.json", published) == f"c.json is missing (expected hash {published})"
    )


def test_files_that_are_not_listed_and_lists_of_other_files_are_no_matter(folder):
    (folder / "c.json").write_text("other")
    assert check_sums(folder, ["a.json", "c.json"]) == {"a.json": SHA256}


@pytest.mark.parametrize("content", [None, ""])
def test_a_folder_without_sums_cannot_be_verified(content, folder):
    (folder / "SHA256SUMS").unlink()
    if content is not None:
        (folder / "SHA256SUMS").write_text(content)
    assert read_sums(folder) == {}
    with pytest.raises(
        DamagedFile, match=r"has no SHA256SUMS, or an empty one.*fetch MODEL --to DIR"
    ):
        verify_folder(folder)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        f"{SHA256}",
        f"{SHA256[:-1]}  a.json",
        f"SHA256 (a.json) = {SHA256}",
        f"{SHA256}  ../a",
        f"{SHA256}  /a",
        "\xff",
    ],
)
def test_a_line_that_is_no_sum_is_named(line, folder):
    (folder / "SHA256SUMS").write_bytes(f"{SHA256}  a.json\n{line}\n".encode("latin-1"))
    with pytest.raises(
        DamagedFile,
        match=r"line 2 of .*SHA256SUMS is '.*', not 'sha256  name of a file in this folder'",
    ):
        verify_folder(folder)


@pytest.mark.parametrize(
    "line",
    [
        f"{SHA256} *a.json",
        f"{SHA256.upper()}  a.json",
        f"{SHA256}  ./a.json",
        f"{SHA256}  a.json\r",
    ],
)
def test_other_forms_of_a_sum_are_read(line, folder):
    (folder / "SHA256SUMS").write_text(line + "\n")
    assert verify_folder(folder) == {"a.json": SHA256}


@pytest.mark.parametrize(
    ("content", "record"),
    [
        (f'{{"model": "acme/tiny", "revision": "{GIT}"}}', {"model": "acme/tiny", "revision": GIT}),
        ('{"model": "acme/tiny", "revision": null}', {"model": "acme/tiny", "revision": None}),
        ('{"model": "acme/tiny", "revision": "main"}', {"model": "acme/tiny", "revision": None}),
        ('{"model": "acme/tiny"}', {"model": "acme/tiny", "revision": None}),
        ('{"model": 7}', None),
        ('{"name": "somebody else\'s file"}', None),
        ("[]", None),
        ("{", None),
        ("", None),
    ],
)
def test_a_record_says_the_model_and_its_commit_or_nothing(content, record, tmp_path):
    assert read_record(tmp_path) is None
    (tmp_path / "source.json").write_text(content)
    assert read_record(tmp_path) == record
