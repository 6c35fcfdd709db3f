"""The allow-list: scikit-learn's estimators come back, nothing else is imported or called."""

import json
import os
import pickle
import sys
import types
import zipfile

import joblib
import numpy as np
import pytest
import scipy.stats
import sklearn
import skops.io
from joblib.numpy_pickle import NumpyPickler
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from pipeline.exceptions import ArtifactError
from pipeline.saved.allow_list import how_to_trust, is_allowed, not_allowed, refuse_names
from pipeline.saved.joblib_file import (
    outline_of,
    read_contents,
    unpickle_allowed,
    write_joblib,
)
from pipeline.saved.skops_file import read_skops, skops_refused


@pytest.fixture
def file(tmp_path):
    return tmp_path / "m.joblib"


def test_weights_are_mapped_and_everything_else_is_read_and_all_are_plain(file):
    joblib.dump(
        [
            np.zeros(1 << 16, dtype=np.uint8),
            np.ones((1 << 16) - 1, dtype=np.uint8),
            np.asfortranarray(np.ones((600, 600))),
        ],
        file,
    )
    weights, small, large = unpickle_allowed(file)
    assert {type(weights), type(small), type(large)} == {np.ndarray}
    assert isinstance(weights.base, np.memmap)
    assert not isinstance(small.base, np.memmap)
    base = large
    # workers would be sent its place in the file, and find what stands there by then
    while isinstance(base, np.ndarray):
        assert not isinstance(base, np.memmap)
        base = base.base
    assert large.flags.f_contiguous
    weights[:] = 7  # copy on write: it stays here
    assert not unpickle_allowed(file)[0].any()


NOT_ALLOWED = """
os.system posix.system subprocess.Popen builtins.eval builtins.exec builtins.getattr
builtins.__import__ importlib.import_module operator.attrgetter operator.methodcaller
functools.partial builtins.map builtins.open builtins.type builtins.str.join numpy.vectorize
numpy.frompyfunc numpy.fromfile numpy.save numpy.savetxt numpy.genfromtxt numpy.apply_along_axis
numpy.fromfunction numpy.add.reduce numpy.lib._npyio_impl.load scipy.io._mmio.mmread
scipy.sparse._matrix_io.load_npz scipy.stats._distn_infrastructure.rv_continuous
scipy.stats._distn_infrastructure.rv_generic scipy.stats._distn_infrastructure.rv_sample
scipy.special._basic.factorial sklearn.datasets._openml.fetch_openml
sklearn.datasets._svmlight_format_io.dump_svmlight_file sklearn.metrics._scorer.get_scorer
sklearn.metrics.pairwise.pairwise_distances sklearn.model_selection._validation.cross_validate
sklearn.utils.discovery.all_estimators sklearn.utils._mocking.CheckingClassifier
sklearn.utils._set_output.check_library_installed sklearn.utils.estimator_checks.check_estimator
sklearn.utils._bunch.Bunch.__setattr__ lightgbm.sklearn.LGBMClassifier
imblearn.over_sampling._smote.base.SMOTE pickle.loads joblib.load joblib.numpy_pickle.load
joblib.memory.Memory numpy.load numpy.memmap numpy.testing._private.utils.runstring
pkgutil.resolve_name torch.load pathlib.PosixPath copyreg._reconstructor
sklearn.pipeline.Pipeline.fit sklearn.pipeline.Pipeline.__init__.__globals__
sklearn.utils._testing.set_random_state sklearn.base.clone sklearn.pipeline.Memory
sklearn.pipeline.clone sklearn.datasets._base.load_files
sklearn.externals.array_api_compat.numpy.array sklearn.tests.test_base.MyEstimator
sklearn.no_such_module.Thing sklearn..Pipeline sklearn . pipeline.vectorizer.BertVectorizer.fit
pipeline.commands.cli.main sklearnish.pipeline.Pipeline
""".split()


@pytest.mark.parametrize("name", ["", *NOT_ALLOWED])
def test_what_is_no_part_of_a_saved_pipeline_is_not_allowed(name):
    assert not is_allowed(name)
    assert is_allowed(name, [name])


def test_estimators_are_allowed_by_the_place_where_they_are_defined():
    assert is_allowed("sklearn.linear_model._logistic.LogisticRegression")
    assert not is_allowed("sklearn.linear_model.LogisticRegression")  # files never name them so


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.B"], "trusted=['a.B']"),
        (["lightgbm.sklearn.LGBMClassifier", "lightgbm.basic.Booster"], "trusted='lightgbm'"),
        (["a.B", "lightgbm.basic.Booster"], "trusted=['lightgbm', 'a.B']"),
        (["lightgbm.callback.log"], "trusted=['lightgbm.callback.log']"),
        (["imblearn.no_such_module.Thing"], "trusted='imblearn'"),  # of another version
        (["imblearn.no_such_module.thing"], "trusted=['imblearn.no_such_module.thing']"),
    ],
)
def test_what_opens_a_file_is_told_as_it_is_typed(names, told):
    assert how_to_trust(names) == told


def pickled(*instructions):
    return b"\x80\x04" + b"".join(instructions) + b"."


def named(name):
    module, _, attribute = name.rpartition(".")
    return (
        b"".join(
            pickle.SHORT_BINUNICODE + bytes([len(p)]) + p.encode() for p in (module, attribute)
        )
        + pickle.STACK_GLOBAL
    )


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def reduced(name, *arguments):
    """Return the call of a name."""
    return named(name) + b"(" + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


LOGISTIC = named("sklearn.linear_model._logistic.LogisticRegression")
KERNEL = "sklearn.gaussian_process.kernels.RBF"
NORMAL = named("scipy.stats._continuous_distns.norm_gen")
FUNCTION = named("sklearn.preprocessing._function_transformer.FunctionTransformer")
BUNCH = named("sklearn.utils._bunch.Bunch")
WRAPPER = named("joblib.numpy_pickle.NumpyArrayWrapper")
DTYPE_O = reduced("numpy.dtype", text("O8"), b"\x89\x88")
V8 = reduced("numpy.dtype", text("V8"), b"\x89\x88")
# flags that deny the objects in a field, and flags that claim some where no field is
FIELD = text("a") + b"\x85}" + text("a") + DTYPE_O + b"K\x00\x86s"
DENYING = V8 + b"(K\x03" + text("|") + b"N" + FIELD + b"K\x08K\x01K\x00tb"
CLAIMING = V8 + b"(K\x03" + text("|") + b"NNNK\x08K\x01K\x01tb"
INTERFACE = text("__array_interface__") + b"}"  # numpy would read at the address that it holds
ADDRESS = pickle.SHORT_BINBYTES + b"\x08" + b"A" * 8


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (reduced("os.system", text("true")), "names os.system"),
        (reduced("builtins.eval", text("1")), "names builtins.eval"),
        (b"cos\nsystem\n" + text("true") + pickle.TUPLE1 + pickle.REDUCE, "names os.system"),
        (b"(" + text("true") + b"ios\nsystem\n", "pickle protocol 1"),
        (b"(cos\nsystem\n" + text("true") + b"o", "names os.system"),
        (
            LOGISTIC + b")" + pickle.REDUCE,
            "calls sklearn.linear_model._logistic.LogisticRegression instead of",
        ),
        (LOGISTIC + b"}b", "itself instead of an object of its own"),
        (named("numpy.log1p") + b"}b", "itself instead of an object of its own"),
        (named("numpy.ndarray") + b"}b", "itself instead of an object of its own"),
        (
            WRAPPER + b"N}" + text("read") + LOGISTIC + b"s" + pickle.TUPLE2 + b"b",
            "itself instead of an object",
        ),
        (
            reduced("numpy.ndarray", b"K\x01" + pickle.TUPLE1, DTYPE_O, ADDRESS),
            "calls numpy.ndarray",
        ),
        (named("numpy.ndarray") + b"K\x01" + pickle.TUPLE1 + pickle.NEWOBJ, "calls numpy.ndarray"),
        (
            reduced("numpy._core.multiarray.scalar", DTYPE_O, ADDRESS),
            "Python objects from bytes",
        ),
        (b"\x82\x01", "extension code 1"),
        (
            WRAPPER + b")" + pickle.NEWOBJ + b"}(" + text("read") + LOGISTIC + b"ub",
            "in a way that joblib does not",
        ),
        (WRAPPER + b")" + pickle.NEWOBJ + b"}b", "in a way that joblib does not"),
        (text("a str is called") + b")" + pickle.REDUCE, "calls 'a str is called'"),
        (b"])R", "calls list, which"),
        (named("builtins.dict") + b")\x81", "calls builtins.dict, which"),
        (reduced(KERNEL), f"calls {KERNEL} instead of giving it its state"),
        (reduced("numpy.log1p", b"K\x01"), "calls numpy.log1p"),
        (NORMAL + b")" + pickle.REDUCE, "norm_gen instead of giving it its state"),
        (NORMAL + b")}" + pickle.NEWOBJ_EX, "makes a distribution in a way that scipy does not"),
        (LOGISTIC + b")" + pickle.NEWOBJ + b"}" + INTERFACE + b"sb", "attributes of an array"),
        (LOGISTIC + b")" + pickle.NEWOBJ + b"N}" + INTERFACE + b"s\x86b", "attributes of an array"),
        (LOGISTIC + b")" + pickle.NEWOBJ + b"(" + INTERFACE + b"db", "attributes of an array"),
        (LOGISTIC + b")\x81N(" + INTERFACE + b"d\x86b", "attributes of an array"),
        (BUNCH + b")" + pickle.NEWOBJ + INTERFACE + b"s", "attributes of an array"),
        (BUNCH + b")\x81(" + text("a") + b"N" + INTERFACE + b"u", "attributes of an array"),
        (BUNCH + b")" + pickle.NEWOBJ + b"(" + INTERFACE + b"u", "attributes of an array"),
        (reduced("numpy.dtype", text("i8")), "calls numpy.dtype for no copy"),
        (reduced("numpy.dtype", text("i8"), b"\x88\x88"), "calls numpy.dtype for no copy"),
        (reduced("numpy.dtype", text("i8"), b"\x89\x89"), "calls numpy.dtype for no copy"),
        (reduced("builtins.bytearray", b"K\x05"), "calls builtins.bytearray with what no"),
        (reduced("builtins.set", b"](N" + b"2\x86" * 40 + b"e"), "calls builtins.set with what no"),
    ],
)
def test_a_pickle_that_does_what_no_saved_pipeline_does_is_refused(instructions, message, file):
    file.write_bytes(pickled(instructions))
    with pytest.raises(ArtifactError, match=message):
        unpickle_allowed(file)


@pytest.mark.parametrize(
    ("instructions", "problem"),
    [
        (
            reduced("numpy._core.multiarray.scalar", DTYPE_O, ADDRESS),
            "it makes Python objects of bytes",
        ),
        (
            LOGISTIC + b")" + pickle.REDUCE,
            "it calls sklearn.linear_model._logistic.LogisticRegression instead of giving it its "
            "state",
        ),
        (
            reduced("numpy.ndarray", b"K\x01" + pickle.TUPLE1),
            "it calls numpy.ndarray instead of giving it its state",
        ),
        (
            reduced("numpy._core.multiarray.scalar", DENYING, ADDRESS),
            "it hides Python objects in the type of an array",
        ),
        (
            reduced("numpy._core.multiarray.scalar", CLAIMING, ADDRESS),
            "it hides Python objects in the type of an array; it makes Python objects of bytes",
        ),
        (text("a str is called") + b")" + pickle.REDUCE, "it calls what str gives"),
        (reduced("numpy.dtype", text("f8")) + b")R", "it calls what numpy.dtype gives"),
        (BUNCH + b")\x81" + INTERFACE + b"s", "it gives an object the attributes of an array"),
    ],
)
def test_what_a_pickle_misuses_is_shown_too_without_running_it(instructions, problem, file):
    file.write_bytes(pickled(instructions))
    assert "; ".join(read_contents(file).problems) == problem


def test_a_description_of_an_array_with_a_text_for_its_type_is_refused(file):
    shape = text("shape") + b")s" + text("order") + text("C") + b"s"
    state = (
        b"}" + text("subclass") + named("numpy.ndarray") + b"s" + text("dtype") + text("O") + b"s"
    )
    file.write_bytes(pickled(WRAPPER, b")", pickle.NEWOBJ, state, shape, b"b"))
    with pytest.raises(ArtifactError, match="gives a str as the type of an array"):
        unpickle_allowed(file)
    with pytest.raises(ArtifactError, match="in a way that numpy does not"):
        read_contents(file)


def test_a_list_where_an_array_of_objects_is_announced_is_refused_and_shown(file):
    joblib.dump(np.array([None]), file)
    announced = file.read_bytes().partition(pickle.dumps(np.array([None]), 5))[0]
    end = pickle.dumps([1, 2], 5)
    file.write_bytes(announced + end + b".")
    with pytest.raises(ArtifactError, match="puts a list where an array is announced"):
        unpickle_allowed(file)
    assert outline_of(read_contents(file).root) == {"<array object (1,)>": [1, 2]}


class State:
    """Is pickled as a type with a state."""

    def __init__(self, name, state):
        self.name, self.state = name, state

    def __reduce__(self):
        return np.dtype, (self.name, False, True), self.state


NESTED = np.dtype("i4")
for _ in range(9):
    NESTED = np.dtype([("a", NESTED)])
I4, V4 = np.dtype("i4"), (3, "|", None, ("a",), {"a": (np.dtype("i4"), 0)}, 4, 1, 0)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("i4", ()),
        ("i4", (3, "<", None, None, None, -1, -1)),
        ("i4", ("3", "<", None, None, None, -1, -1, 0)),
        ("i4", (3, "<", None, None, None, -1, -1, 1)),
        ("i4", (3, "<", None, None, None, -1, -1, 0, (1,))),
        ("i4", (3, "<", None, None, None, -1, -1, 0, {}, 1)),
        ("i4", (3, "wrong", None, None, None, -1, -1, 0)),
        ("i4", (3, "<", None, None, None, 1 << 62, -1, 0)),
        ("m8", (4, "<", None, None, None, -1, -1, 0, {})),
        ("V4", (3, "|", (), None, None, 4, 1, 0)),
        ("V4", (3, "|", (I4, (1 << 40,)), None, None, 4, 1, 0)),
        ("V4", (3, "|", None, ("b",), *V4[4:])),
        ("V4", (3, "|", None, ("a",), {"a": (I4, 1)}, *V4[5:])),
        ("V4", (3, "|", None, ("a",), {"a": (I4, 1 << 70)}, *V4[5:])),
        ("V4", (3, "|", None, ("a",), {"a": (I4, -4)}, *V4[5:])),
        ("V4", (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)),
        ("V4", np.dtype([("a", NESTED)]).__reduce__()[2]),
    ],
)
def test_a_state_that_numpy_gives_no_type_is_refused(name, state, file):
    joblib.dump(State(name, state), file)
    with pytest.raises(ArtifactError, match="gives the type of an array a state that numpy does n"):
        unpickle_allowed(file)


@pytest.mark.parametrize(
    "dtype",
    [
        I4,
        np.dtype(">f8"),
        np.dtype("f4", metadata={"a": 1}),
        np.dtype("M8[25s]"),
        np.dtype("m8[D]"),
        np.dtype(("i4", (2, 3))),
        np.dtype("i1,f8", align=True),
        np.dtype({"names": ["a", "b"], "formats": ["u1", "(2,)i2"], "offsets": [8, 2]}),
        np.dtype({"names": ["a"], "formats": ["u1"], "titles": ["A"], "itemsize": 9}),
        NESTED,
    ],
    ids=str,
)
def test_every_type_that_numpy_makes_comes_back(dtype, file):
    joblib.dump(dtype, file)
    back = unpickle_allowed(file)
    assert back.__reduce__()[1:] == dtype.__reduce__()[1:]


class WithKeywords:
    """Is made with keywords."""

    def __new__(cls, *, a):
        made = super().__new__(cls)
        made.a = a
        return made

    def __getnewargs_ex__(self):
        return (), {"a": self.a}


def test_an_object_that_is_made_with_keywords_opens_where_its_name_is_trusted(file):
    joblib.dump(WithKeywords(a=5), file)
    name = f"{__name__}.WithKeywords"
    assert unpickle_allowed(file, [name]).a == 5
    shown = {"class": name, "called with": [[], {"a": 5}], "a": 5}
    assert outline_of(read_contents(file).root) == shown


@pytest.mark.parametrize(
    "name", ["numpy.ndarray", "numpy._core.multiarray.scalar", "sklearn.neighbors._kd_tree.newObj"]
)
def test_what_a_pickle_may_call_is_good_for_nothing_later(name, file):
    """A FunctionTransformer would call it with arguments of the file: bytes, and the type O."""
    version = text("_sklearn_version") + text(sklearn.__version__)
    state = b"}" + text("func") + named(name) + b"s" + version + b"s"
    file.write_bytes(pickled(FUNCTION, b")", pickle.NEWOBJ, state, b"b"))
    assert callable(joblib.load(file).func)  # the control
    assert not callable(unpickle_allowed(file).func)


PROGRAM = "import os; os.mkdir({!r})"


def with_a_program(value, folder):
    """Put a program where scipy executes it: into the state of a distribution."""
    value.dist._parse_arg_template = PROGRAM.format(str(folder)) + (
        "\ndef _parse_args(s, *a): pass\n_parse_args_rvs = _parse_args_stats = _parse_args"
    )
    return value


def test_a_program_in_the_state_of_a_distribution_is_not_run(file, tmp_path):
    value = with_a_program(scipy.stats.norm(3), tmp_path / "was run")
    write_joblib(value, file)
    joblib.load(file)  # the control
    (tmp_path / "was run").rmdir()
    loaded = unpickle_allowed(file)
    assert not (tmp_path / "was run").exists()
    assert (
        loaded.rvs(3, random_state=0).tolist()
        == scipy.stats.norm(3).rvs(3, random_state=0).tolist()
    )


def test_a_program_in_a_skops_file_is_not_run_either(file, tmp_path):
    skops.io.dump(with_a_program(scipy.stats.norm(3), tmp_path / "was run"), file)
    skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))  # the control
    (tmp_path / "was run").rmdir()
    loaded = read_skops(file)
    assert not (tmp_path / "was run").exists()
    assert loaded.mean() == 3


def skops_call(name, arguments):
    """Return what makes skops call a name when it opens a file."""
    module, _, attribute = name.rpartition(".")
    return {
        "__class__": attribute,
        "__module__": module,
        "__loader__": "ConstructorFromReduceNode",
        "content": arguments,
        "protocol": 2,
        "_skops_version": skops.__version__,
    }


@pytest.mark.parametrize("name", ["numpy.ndarray", "numpy._core.multiarray.scalar", "os.mkdir"])
def test_a_skops_file_calls_no_function_of_pickles(name, file):
    """They would take its bytes for pointers."""
    skops.io.dump((1,), file)
    with zipfile.ZipFile(file) as archive:
        arguments = json.loads(archive.read("schema.json"))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", json.dumps(skops_call(name, arguments)))
    with pytest.raises(ArtifactError, match=f"names {name}: not on the list"):
        read_skops(file)
    assert skops_refused(file) == [name]


def bytes_called(dtype, file):
    """Write eight bytes under another type."""

    class Liar(NumpyPickler):
        def _create_array_wrapper(self, array):
            wrapper = super()._create_array_wrapper(array)
            wrapper.dtype = np.dtype(dtype)
            return wrapper

    with file.open("wb") as out:
        Liar(out).dump(np.frombuffer(b"A" * 8, dtype="V8"))


@pytest.mark.parametrize("map_from", [1, 1 << 20])
@pytest.mark.parametrize("dtype", [[("a", "O")], "O"])
def test_bytes_are_never_taken_for_pointers_to_objects(dtype, map_from, file, monkeypatch):
    """A list of names alone would let this in: numpy maps any bytes as an array of objects."""
    bytes_called(dtype, file)
    # the control; reading an element would crash
    assert joblib.load(file, mmap_mode="c").dtype.hasobject
    assert not not_allowed(
        ["numpy.ndarray", "numpy.dtype", "joblib.numpy_pickle.NumpyArrayWrapper"]
    )
    monkeypatch.setattr("pipeline.saved.joblib_file._MAP_FROM", map_from)
    with pytest.raises((ArtifactError, KeyError)) as caught:  # KeyError: the bytes are no pickle
        unpickle_allowed(file)
    assert dtype == "O" or "hides Python objects in the type" in str(caught.value)


def test_a_type_whose_flags_deny_its_objects_is_refused(file):
    file.write_bytes(pickled(DENYING))
    with pytest.raises(ArtifactError, match="a state that numpy does not"):
        unpickle_allowed(file)


class Mine(BaseEstimator):
    """An estimator that nobody knows."""

    class Inner:
        """A class inside it."""

    def __init__(self, a=1):
        self.a = a


def test_names_that_the_user_trusts_are_allowed_too_by_their_full_name_only(file):
    joblib.dump([Mine(5), FunctionTransformer(np.save)], file)
    mine = f"{Mine.__module__}.Mine"
    with pytest.raises(ArtifactError, match=mine):
        unpickle_allowed(file)
    with pytest.raises(ArtifactError, match="numpy"):
        unpickle_allowed(file, [mine])
    names = not_allowed(read_contents(file).names)
    loaded = unpickle_allowed(file, names)
    assert (loaded[0].a, loaded[1].func) == (5, np.save)
    joblib.dump(Mine.Inner(), file)
    inner = unpickle_allowed(file, [f"{mine}.Inner"])
    assert type(inner) is Mine.Inner
    file.write_bytes(pickled(reduced("numpy.log1p", b"K\x00")))
    assert unpickle_allowed(file, ["numpy.log1p"]) == 0


def test_the_groups_that_would_allow_refused_names_are_told(file):
    told = "such as trusted='lightgbm', such as trusted='xgboost'"
    with pytest.raises(ArtifactError, match=told):
        refuse_names(file, ["lightgbm.basic.Booster", "xgboost.core.Booster"])


def test_nothing_is_imported_for_a_name_that_is_refused(file):
    module = types.ModuleType("not_imported_again")
    module.Thing = type("Thing", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module
    joblib.dump(module.Thing(), file)
    del sys.modules[module.__name__]
    with pytest.raises(ArtifactError, match=r"names not_imported_again\.Thing"):
        unpickle_allowed(file)  # ModuleNotFoundError, had it been tried


def test_a_joblib_that_reads_arrays_past_the_list_is_refused(file, monkeypatch):
    joblib.dump(LogisticRegression(), file)
    monkeypatch.setattr(joblib, "__version__", "1.5.3")
    with pytest.raises(
        ArtifactError, match=r"joblib 1\.5\.3 reads some arrays past any allow-list.*joblib>=1\.6"
    ):
        unpickle_allowed(file)
    monkeypatch.setattr(joblib, "__version__", "1.6.dev0")
    assert unpickle_allowed(file).C == 1.0


def test_the_working_directory_is_not_where_allowed_names_come_from(file, tmp_path, monkeypatch):
    joblib.dump(LogisticRegression(), file)
    (tmp_path / "sklearn_evil.py").write_text("import os; os.mkdir('was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_allowed("sklearn_evil.Thing")
    unpickle_allowed(file)
    assert not os.path.exists("was run")
