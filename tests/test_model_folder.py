"""fetch_to: a folder that can be carried, checked with sha256sum, and used offline."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.checkpoints.checkpoint import CheckpointError, fetch_to, resolve, verify_folder
from pipeline.vectorizer import DEFAULT_MODEL
from tests.fake_hub import COMMIT, MODEL, FakeHub, Fault, connect
from tests.test_checkpoint import vocabulary_only

NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
WRITTEN = sorted([*NEEDED, "SHA256SUMS", "source.json"])


@pytest.fixture
def hub(tiny_bert, tmp_path, monkeypatch):
    with FakeHub({MODEL: Path(tiny_bert)}) as server:
        connect(server.url, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def carried(hub, tmp_path, monkeypatch):
    """Give the folder of a fetched model, on a machine that has nothing else."""
    fetch_to(MODEL, tmp_path / "carried")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "carried"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_fetched_folder_holds_the_needed_files_their_sums_and_their_origin(
    hub, tiny_bert, tmp_path
):
    commit, files = fetch_to(MODEL, tmp_path / "new" / "carried")
    folder = tmp_path / "new" / "carried"
    assert commit == COMMIT
    assert names(folder) == WRITTEN == sorted(files)
    assert files == {path.name: path.stat().st_size for path in folder.iterdir()}
    for name in NEEDED:
        assert (folder / name).read_bytes() == Path(tiny_bert, name).read_bytes()
        assert not (folder / name).is_symlink()
    assert json.loads((folder / "source.json").read_text()) == {"model": MODEL, "revision": COMMIT}
    assert set(verify_folder(folder)) == {*NEEDED, "source.json"}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_a_fetched_folder(carried):
    def check():
        return subprocess.run(
            ["sha256sum", "-c", "SHA256SUMS"],
            cwd=carried,
            capture_output=True,
            text=True,
            check=False,
        )

    assert check().returncode == 0
    with (carried / "model.safetensors").open("r+b") as file:
        file.write(b"\xff")
    assert check().returncode == 1
    assert "model.safetensors: FAILED" in check().stdout


def test_a_carried_folder_is_used_without_a_connection_and_is_recorded_by_its_commit(
    carried, tiny_bert
):
    assert resolve(str(carried)).source == {
        "model": str(carried),
        "kind": "folder",
        "revision": COMMIT,
        "sha256": resolve(tiny_bert).source["sha256"],
    }


@pytest.mark.parametrize("name", [*NEEDED, "source.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_carried_folder_that_was_damaged_is_refused_with_both_hashes(damage, name, carried):
    content = (carried / name).read_bytes()
    expected, found = hashlib.sha256(content).hexdigest(), "is missing"
    (carried / name).unlink()
    if damage != "gone":
        changed = content[:-1] + bytes([content[-1] ^ 1]) if damage == "flipped" else content[:20]
        (carried / name).write_bytes(changed)
        found = f"has sha256 {hashlib.sha256(changed).hexdigest()}"
    with pytest.raises(
        CheckpointError,
        match=rf"is damaged: {name} {found}.*{expected}.* \(SHA256SUMS in .*fetch the folder again",
    ):
        resolve(str(carried))


def test_an_origin_that_nothing_vouches_for_is_not_believed(carried):
    for sums in (None, f"{'0' * 64}  README.md\n"):
        (carried / "SHA256SUMS").unlink(missing_ok=True)
        if sums:
            (carried / "SHA256SUMS").write_text(sums)
        assert resolve(str(carried)).source["revision"] is None


def test_the_default_model_is_carried_from_its_installed_copy(tmp_path, monkeypatch):
    commit, _ = fetch_to(DEFAULT_MODEL, tmp_path / "carried")
    assert commit is None
    assert set(names(tmp_path / "carried")) > {*WRITTEN, "modules.json", "1_Pooling"}
    source = resolve(str(tmp_path / "carried")).source
    assert source["revision"] is None
    assert source["sha256"] == resolve(DEFAULT_MODEL).source["sha256"]


def test_an_older_checkpoint_brings_all_that_its_tokenizer_is_rebuilt_from(
    hub, tiny_bert, tmp_path
):
    served = Path(shutil.copytree(tiny_bert, tmp_path / "served"))
    vocabulary_only(served, lowercase=True)
    hub.repositories[MODEL] = served
    fetch_to(MODEL, tmp_path / "carried")
    sources = {"tokenizer_config.json", "vocab.txt"}
    assert set(names(tmp_path / "carried")) == {*WRITTEN, *sources} - {"tokenizer.json"}
    assert resolve(str(tmp_path / "carried")).fingerprint == resolve(str(served)).fingerprint


def test_a_second_fetch_repairs_what_is_damaged_and_touches_nothing_else(hub, tmp_path):
    folder = tmp_path / "carried"
    fetch_to(MODEL, folder)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}
    (folder / "config.json").write_text("{")
    (folder / "tokenizer.json").unlink()
    (folder / "SHA256SUMS").unlink()  # as after a fetch that broke off
    fetch_to(MODEL, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: body for name, (_, body) in before.items()
    }
    assert (folder / "model.safetensors").stat().st_ino == before["model.safetensors"][0]


@pytest.mark.parametrize("step", range(1, 5))
def test_a_fetch_that_broke_off_leaves_no_half_file_and_is_completed_by_the_next(
    step, hub, tmp_path, monkeypatch
):
    folder, replaced, left = tmp_path / "carried", os.replace, [step]

    def breaks(source, target):
        if Path(target).parent == folder:
            left[0] -= 1
            if not left[0]:
                raise OSError(28, "No space left on device")
        replaced(source, target)

    monkeypatch.setattr("os.replace", breaks)
    with pytest.raises(OSError, match="No space left"):
        fetch_to(MODEL, folder)
    assert len(names(folder)) == step - 1
    assert "SHA256SUMS" not in names(folder)
    fetch_to(MODEL, folder)
    assert names(folder) == WRITTEN
    verify_folder(folder)


@pytest.mark.parametrize(
    "name",
    "config.json model.safetensors vocab.txt pytorch_model.bin SHA256SUMS source.json".split(),
)
def test_a_folder_with_another_models_file_is_refused_and_left_alone(name, hub, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("other")
    with pytest.raises(
        CheckpointError,
        match=rf"other holds files of another model or commit \({name}\)\. Name an empty or new",
    ):
        fetch_to(MODEL, tmp_path / "other")
    assert names(tmp_path / "other") == [name]


def test_a_folder_with_another_commit_of_the_model_is_refused(hub, tmp_path):
    fetch_to(MODEL, tmp_path / "carried")
    (tmp_path / "carried" / "source.json").write_text(
        json.dumps({"model": MODEL, "revision": "f" * 40})
    )
    with pytest.raises(
        CheckpointError,
        match=r"another model or commit .*for 'acme/tiny-bert' at commit 0123456789abcdef",
    ):
        fetch_to(MODEL, tmp_path / "carried")


def test_files_of_no_model_do_not_matter(hub, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    fetch_to(MODEL, tmp_path / "mine", COMMIT)
    assert names(tmp_path / "mine") == sorted([*WRITTEN, "README.md"])


def test_a_folder_is_not_fetched_and_a_file_is_no_place_for_one(hub, tiny_bert, tmp_path):
    with pytest.raises(CheckpointError, match=r"is already a folder \(.*\): copy it as it is"):
        fetch_to(tiny_bert, tmp_path / "carried")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file is a file; name a folder"):
        fetch_to(MODEL, tmp_path / "file")


def test_a_model_that_is_not_to_be_had_leaves_no_folder(hub, tmp_path):
    with pytest.raises(CheckpointError, match=r"'acme/none' was not found.*404 RepoNotFound"):
        fetch_to("acme/none", tmp_path / "carried")
    hub.faults["model.safetensors"] = Fault(flip=True)
    with pytest.raises(CheckpointError, match="after two downloads"):
        fetch_to(MODEL, tmp_path / "carried")
    assert not (tmp_path / "carried").exists()


def test_a_copy_that_is_not_whole_is_not_kept(hub, tmp_path, monkeypatch):
    half = b"half"
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: target.write_bytes(half))
    with pytest.raises(
        CheckpointError, match=r"config\.json was not copied completely: .*Check the disk"
    ):
        fetch_to(MODEL, tmp_path / "carried")
    assert names(tmp_path / "carried") == ["source.json"]
