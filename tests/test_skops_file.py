"""skops files: the same object comes back, and what is not allowed is refused."""

import copy
import json
import re
import stat
import sys
import zipfile

import joblib
import numpy as np
import pytest
import scipy.stats
import skops.io
from sklearn.linear_model import LogisticRegression

from pipeline import inspect_pipeline, load_pipeline, save_pipeline, verify_pipeline
from pipeline.exceptions import ArtifactError
from pipeline.saved.joblib_file import outline_of
from pipeline.saved.skops_file import (
    read_skops,
    skops_names,
    skops_problems,
    skops_refused,
    skops_root,
    skops_schema,
    write_skops,
)
from tests.conftest import TEXTS
from tests.test_allow_list import KERNEL, Mine
from tests.test_attacks import a_dict, a_tuple, node, plain


def with_keys(*kinds):
    """Describe a dict whose keys are of these kinds."""
    types = node("builtins.list", "ListNode", content=list(kinds))
    return node("builtins.dict", "DictNode", content={"a": plain(1)}, key_types=types)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.skops"


@pytest.fixture
def model():
    return LogisticRegression(C=3).fit([[0.0], [1.0]], ["no", "yes"])


def test_it_is_a_file_that_skops_alone_can_read(path, model):
    write_skops(model, path)
    assert skops.io.get_untrusted_types(file=path) == []
    assert skops.io.load(path).C == 3


def test_names_are_listed_without_skops(path, model, monkeypatch):
    write_skops(model, path)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    names = skops_names(skops_schema(path))
    assert "sklearn.linear_model._logistic.LogisticRegression" in names
    assert len(names) == len(set(names))
    assert skops_refused(path) is None


@pytest.mark.parametrize("call", [lambda path: write_skops(1, path), read_skops])
def test_without_skops_the_extra_is_named(call, path, monkeypatch):
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ImportError, match=r"need skops: pip install '\.\[skops\]'"):
        call(path)


def test_another_zip_has_no_schema(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert skops_schema(path) is None
    for content in ("[]", "1", '{"a": 1}'):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("schema.json", content)
        assert skops_schema(path) is None
    path.write_bytes(b"PK no zip")
    assert skops_schema(path) is None


def written(root, path):
    """Write a description of a value as a file."""
    named = {"protocol": 2, "_skops_version": skops.__version__}
    content = root if isinstance(root, str) else json.dumps({**root, **named})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", content)
    return path


@pytest.mark.parametrize(
    ("root", "message"),
    [
        (plain({"a": 1}), "hides a dict or list in a text"),
        (plain([1]), "hides a dict or list in a text"),
        (node("builtins.str", "JsonNode", content=" [1]"), "hides a dict or list in a text"),
        (a_dict(__array_interface__=plain(1)), "gives an object the attributes of an array"),
        (with_keys(node("builtins.str", "JsonNode", content="1")), r"keys .* by builtins\.str"),
        (
            with_keys(node("sklearn.pipeline.Pipeline", "TypeNode")),
            r"keys of a dict by sklearn\.pipeline\.Pipeline",
        ),
        (
            with_keys(node("builtins.range", "TypeNode")),
            r"keys of a dict by builtins\.range",
        ),
        (
            a_tuple(a_tuple(plain(1)) | {"__id__": 5}, a_dict() | {"__id__": 5}),
            "it gives one number to two objects",
        ),
        (node(KERNEL, "ObjectNode", content=a_tuple(plain(1))), "RBF a state that is no dict"),
        (node("numpy.sum", "SetNode", content=[plain(1)]), r"it calls numpy\.sum, which no"),
    ],
)
def test_what_skops_would_make_by_the_word_of_a_text_is_refused_and_shown(root, message, path):
    written(root, path)
    with pytest.raises(ArtifactError, match=message):
        load_pipeline(path)
    assert re.search(message, inspect_pipeline(path)["problems"][0])


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("sklearn._loss._loss.CyHalfSquaredError", "LossNode"),
        ("sklearn.tree._tree.Tree", "TreeNode"),
    ],
)
def test_a_compiled_object_with_a_state_that_is_no_dict_is_a_problem(name, loader):
    problems = skops_problems(node(name, loader, content=a_tuple(plain(1))))
    assert problems == [f"it gives {name} a state that is no dict"]


def test_what_stands_twice_in_a_pipeline_is_one_object_again_and_no_problem(path, model):
    normal = scipy.stats.norm(3)
    values = {"a": model, "b": model, "c": normal, "d": copy.copy(normal)}
    skops.io.dump(values, path)
    assert skops_problems(skops_schema(path)) == []
    back = read_skops(path)
    assert back["a"] is back["b"]
    assert back["c"].dist is back["d"].dist
    assert back["d"].mean() == 3
    state = a_dict() | {"__id__": 5}
    again = node("builtins.dict", "CachedNode") | {"__id__": 5}
    assert skops_problems(a_tuple(state, node(KERNEL, "ObjectNode", content=again))) == []


def test_names_and_contents_of_a_file_are_shown_before_it_is_opened(path):
    written(a_tuple(node("os.mkdir", "FunctionNode", content=None), plain(1)), path)
    found = inspect_pipeline(path)
    assert {"os.mkdir", "builtins.tuple"} <= set(found["names"])
    assert found["contents"] == ["<os.mkdir>", 1]
    assert found["refused"] == ["os.mkdir"]


def test_a_name_that_the_user_trusts_opens(path):
    skops.io.dump(Mine(5), path)
    with pytest.raises(ArtifactError, match=r"names .*\.Mine: not on the list"):
        read_skops(path)
    assert read_skops(path, [f"{Mine.__module__}.Mine"]).a == 5


LINK = zipfile.ZipInfo("link")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("schema.json", "two of its entries have one name"),
        ("folder/x", "its entry 'folder/x' is no plain file"),
        ("../x", "its entry '../x' is no plain file"),
        (LINK, "its entry 'link' is no plain file"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_others_would_unpack_in_another_way_is_refused(entry, message, path):
    written(plain(1), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "x")
    for read in (load_pipeline, inspect_pipeline):
        with pytest.raises(ArtifactError, match=message):
            read(path)


@pytest.mark.parametrize(("size", "most"), [(0, 64 << 20), (3 << 20, 90 << 20)])
def test_a_file_may_unpack_to_64_mib_or_thirty_times_its_size(size, most, path):
    def claim(n_bytes):
        written(plain(1), path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("weights", bytes(size))
            archive.writestr("x", b"")
            others = sum(entry.file_size for entry in archive.infolist())
            archive.getinfo("x").file_size = n_bytes - others  # what the archive says of it
        return skops_schema(path)

    assert claim(most)
    with pytest.raises(ArtifactError, match="it unpacks to"):
        claim(most + 30_000)  # the other entries and the archive's own list count too


def test_keys_of_plain_types_are_no_problem(path):
    kinds = ("builtins.str", "builtins.int", "numpy.int64")
    for kind in kinds:
        assert skops_problems(with_keys(node(kind, "TypeNode"))) == []


@pytest.mark.parametrize("read", [load_pipeline, inspect_pipeline])
@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (node("builtins.dict", "DictNode", content={}), r"damaged .*KeyError: .*key_types"),
    ],
)
def test_a_description_that_cannot_be_read_is_refused_by_the_name_of_the_file(
    read, root, message, path
):
    with pytest.raises(ArtifactError, match=rf"m\.skops .*{message}"):
        read(written(root, path))


def test_a_text_that_is_no_json_is_shown_as_it_stands():
    assert skops_root(plain("x") | {"content": '"x'}) == '"x'
    assert skops_root(plain("x")) == "x"


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        (a_tuple(plain(1), plain("x")), [1, "x"]),
        (node("builtins.set", "SetNode", content=[plain(None)]), [None]),
        (a_dict(a=plain(0.5)), {"a": 0.5}),
        (node("numpy.sum", "FunctionNode", content=None), "<numpy.sum>"),
        (node("builtins.bool", "BoolNode", content=True), True),
        (node(KERNEL, "ObjectNode", content=a_dict(a=plain(1))), {"class": KERNEL, "a": 1}),
        (node("a.B", "MethodNode", content={"func": "c"}), {"class": "a.B", "func": "c"}),
    ],
)
def test_a_description_is_shown_like_what_it_makes(root, shown):
    assert outline_of(skops_root(root)) == shown


# ---- files that execute nothing


def test_skops_gives_the_probabilities_of_joblib_bit_for_bit(fitted, tmp_path):
    by_joblib = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
    by_skops = load_pipeline(save_pipeline(fitted, tmp_path / "m.skops", format="skops"))
    assert np.array_equal(by_skops.predict_proba(TEXTS), by_joblib.predict_proba(TEXTS))
    assert verify_pipeline(tmp_path / "m.skops")["probes"]["difference"] == 0


@pytest.mark.parametrize("load", [load_pipeline, lambda path: joblib.load(path, mmap_mode="c")])
def test_a_mapped_pipeline_can_be_saved_as_skops_and_back(load, fitted, tmp_path):
    loaded = load(save_pipeline(fitted, tmp_path / "m.joblib"))
    again = load_pipeline(save_pipeline(loaded, tmp_path / "m.skops", format="skops"))
    back = load_pipeline(save_pipeline(again, tmp_path / "back.joblib"))
    assert np.array_equal(back.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_a_skops_file_may_be_called_joblib_and_the_other_way_round(fitted, tmp_path):
    save_pipeline(fitted, tmp_path / "m.joblib", format="skops")
    save_pipeline(fitted, tmp_path / "m.skops")
    assert inspect_pipeline(tmp_path / "m.joblib")["format"] == "skops"
    assert inspect_pipeline(tmp_path / "m.skops")["format"] == "joblib"
    assert (
        load_pipeline(tmp_path / "m.joblib").predict(TEXTS).tolist()
        == load_pipeline(tmp_path / "m.skops").predict(TEXTS).tolist()
    )
