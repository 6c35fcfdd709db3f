"""read_contents: everything in a joblib file is seen, nothing of it is imported or called."""

import collections
import contextlib
import os
import pickle
import struct

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib.numpy_pickle import NumpyPickler
from sklearn.linear_model import LogisticRegression

from pipeline.exceptions import ArtifactError
from pipeline.saved.joblib_file import Array, outline_of, read_contents, unpickle_allowed


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "m.joblib"


def dumped(value, file):
    joblib.dump(value, file)
    return file


def test_every_name_is_listed_once_also_those_inside_object_arrays(file):
    inside = np.array(
        [np.array([Payload("/nowhere"), LogisticRegression()], dtype=object), None], dtype=object
    )
    names = read_contents(
        dumped([collections.OrderedDict(a=1), inside, collections.OrderedDict()], file)
    ).names
    assert len(set(names)) == len(names)
    assert {
        "collections.OrderedDict",
        "posix.mkdir",
        "sklearn.linear_model._logistic.LogisticRegression",
    } <= set(names)


@pytest.mark.parametrize(
    "dtype",
    ["f4", "f8", ">i2", "u1", "U7", "S3", "?", "c16", "M8[s]", "i4,f8", "(2,)f4,i1"],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (2, 0, 3)])
def test_arrays_of_all_types_and_shapes_are_passed_over_to_the_byte(dtype, shape, file):
    array = np.zeros(shape, dtype=dtype)
    columns = np.asfortranarray(np.ones((3, 2)))
    root = read_contents(dumped([array, "after", columns], file)).root
    assert (root[0].shape, root[0].n_bytes) == (shape, array.nbytes)
    assert root[1] == "after"
    assert isinstance(root[2], Array)
    back = unpickle_allowed(file)
    assert np.array_equal(back[0], array)
    assert back[0].dtype == array.dtype
    assert np.array_equal(back[2], columns)


def test_the_place_of_an_array_in_the_file_is_where_its_data_are(file):
    numbers, objects = np.arange(5.0), np.array(["a", None], dtype=object)
    dumped([numbers, objects], file)
    content = file.read_bytes()
    found = read_contents(file).arrays
    places = [content[array.offset : array.offset + array.n_bytes] for array in found]
    assert places == [numbers.tobytes(), pickle.dumps(objects, 5)]


def test_arrays_of_a_joblib_that_did_not_align_them_are_read(file):
    class Before(NumpyPickler):
        def _create_array_wrapper(self, array):
            wrapper = super()._create_array_wrapper(array)
            del wrapper.numpy_array_alignment_bytes
            return wrapper

    with file.open("wb") as target:
        Before(target).dump([np.arange(3.0), "after"])
    assert read_contents(file).root[1] == "after"
    assert unpickle_allowed(file)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_every_protocol_since_2_are_read(protocol, file):
    value = {"model": LogisticRegression(), "array": np.arange(3), "set": {1, 2}, "bytes": b"x"}
    joblib.dump(value, file, protocol=protocol)
    assert read_contents(file).root["model"].state["C"] == 1.0
    joblib.dump(bytearray(b"abc"), file, protocol=5)
    assert read_contents(file).root == bytearray(b"abc")


@pytest.mark.parametrize(
    "opcodes", [b"(cos\nmkdir\nX\x01\x00\x00\x00xo.", b"(X\x01\x00\x00\x00xios\nmkdir\n."]
)
def test_the_old_ways_to_call_are_seen_too(opcodes, file):
    file.write_bytes(b"\x80\x02" + opcodes)
    root = read_contents(file).root
    assert (root.name, root.args) == ("os.mkdir", ["x"])


def test_what_is_put_into_an_object_is_kept_in_order(file):
    made = b"ccollections\ndeque\n)\x81"
    file.write_bytes(b"\x80\x04" + made + b"K\x01a(K\x02eK\x03K\x04s(K\x05\x90.")
    root = read_contents(file).root
    assert root.items == [1, [2], (3, 4), 5]
    assert outline_of(root) == {"class": "collections.deque", "items": [1, [2], [3, 4], 5]}


def test_what_joblib_and_numpy_write_has_no_problems(file):
    values = [
        LogisticRegression().fit([[0.0], [1.0]], np.array(["no", "yes"], dtype=object)),
        np.float64(1),
        np.zeros(2, dtype="i4,f8"),
        np.dtype("(2,)f4,i1"),
        np.random.default_rng(0),
        {1: (2, 3)},
    ]
    assert list(read_contents(dumped(values, file)).problems) == []


def test_bytes_after_the_end_are_refused(file):
    dumped([1], file)
    file.write_bytes(file.read_bytes() + b"junk")
    with pytest.raises(ArtifactError, match="it has 4 bytes after its end"):
        read_contents(file)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_file_with_any_byte_changed_is_read_or_refused_and_nothing_else_happens(
    tmp_path_factory, at, byte
):
    file = tmp_path_factory.mktemp("flipped") / "m.joblib"
    dumped([LogisticRegression(C=3), np.arange(4.0), np.array(["a", None], dtype=object)], file)
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] = byte
    file.write_bytes(content)
    with contextlib.suppress(ArtifactError):
        read_contents(file)


def claimed(shape, file):
    """Write the description of an array without the array."""
    joblib.dump(np.zeros((3, 4)), file)
    content = file.read_bytes()
    honest = pickle.BININT1 + b"\x03" + pickle.BININT1 + b"\x04" + pickle.TUPLE2
    assert honest in content
    lie = (
        b"".join(pickle.LONG1 + b"\x08" + struct.pack("<q", n) for n in shape)
        + {1: pickle.TUPLE1, 2: pickle.TUPLE2}[len(shape)]
    )
    content = content.replace(honest, lie)
    frame = content.index(pickle.FRAME) + 1  # frames carry their length
    length = int.from_bytes(content[frame : frame + 8], "little") + len(lie) - len(honest)
    file.write_bytes(content[:frame] + length.to_bytes(8, "little") + content[frame + 8 :])


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 47, 1), (1 << 32, 1 << 32), (13,), (-1,)])
def test_an_array_that_claims_more_than_the_file_has_is_refused_without_making_it(shape, file):
    claimed(shape, file)
    # its data are the last but one byte of the file
    with pytest.raises(ArtifactError, match=r"it claims an array of .* where 97 are left"):
        read_contents(file)


def test_a_value_that_claims_more_bytes_than_the_file_has_is_refused_without_making_it(file):
    file.write_bytes(b"\x80\x05" + pickle.BYTEARRAY8 + (1 << 50).to_bytes(8, "little") + b".")
    with pytest.raises(ArtifactError, match=f"it claims {1 << 50} bytes for one value"):
        read_contents(file)


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"\x82\x01.", "extension code 1 of copyreg"),
        (b"X\x01\x00\x00\x00x}b.", "it gives a state to a str"),
        (b"cos\nmkdir\n}b.", "it gives a state to a Name"),
        (b"\xff", "it is damaged or truncated"),
        (b"N", r"it is damaged or truncated \(EOFError"),
    ],
)
def test_instructions_that_no_saved_pipeline_has_are_refused(opcodes, message, file):
    file.write_bytes(b"\x80\x02" + opcodes)
    with pytest.raises(ArtifactError, match=message):
        read_contents(file)


TWICE = b"2\x86" * 10  # a tuple of twice the tuple before, 10 times
KEYS = [b"}N%bNs.", b"}(N%bNu.", b"(N%bNd.", b"\x8f(N%b\x90.", b"(N%b\x91.", b"}(N%b\x91Ns."]
KEYS += [b"}(NNN%bNu.", b"(NNN%bNd."]
NAMES_OF_KEYS = "one several dict set frozen inside later later_in_dict".split()


@pytest.mark.parametrize("opcodes", KEYS, ids=NAMES_OF_KEYS)
def test_a_key_whose_hash_could_take_forever_is_refused(opcodes, file):
    file.write_bytes(b"\x80\x04" + opcodes % TWICE)
    with pytest.raises(ArtifactError, match="it has a key of more than 1000 parts"):
        read_contents(file)
    file.write_bytes(b"\x80\x04" + opcodes % TWICE[:16])
    assert read_contents(file).root


def test_a_key_may_have_a_thousand_parts(file):
    key = tuple(range(1000))
    assert read_contents(dumped({key: 1}, file)).root == {key: 1}
    with pytest.raises(ArtifactError, match="it has a key of more than 1000 parts"):
        read_contents(dumped({(*key, 0): 1}, file))


def test_object_arrays_in_object_arrays_end_somewhere(file):
    objects = np.array([1, None], dtype=object)
    inner = pickle.dumps(objects, 5)
    announced, _, end = dumped(objects, file).read_bytes().partition(inner)
    file.write_bytes(announced * 8 + inner + end * 8)
    assert len(read_contents(file).arrays) == 8
    file.write_bytes(announced * 9 + inner + end * 9)
    with pytest.raises(ArtifactError, match="object arrays are nested deeper than 8"):
        read_contents(file)


def with_wrapper(value, file, **attributes):
    """Write an array with more or other attributes in its description."""

    class Liar(NumpyPickler):
        def _create_array_wrapper(self, array):
            wrapper = super()._create_array_wrapper(array)
            vars(wrapper).update(attributes)
            return wrapper

    with file.open("wb") as target:
        Liar(target).dump(value)


def test_an_array_with_attributes_that_joblib_does_not_write_is_refused(file):
    """Joblib would call its attribute read_array."""
    with_wrapper(np.arange(3.0), file, read_array=1)
    for read in (read_contents, unpickle_allowed):
        with pytest.raises(ArtifactError, match="an array in a way that joblib does not"):
            read(file)


def test_an_array_of_a_class_of_its_own_is_refused(file):
    with_wrapper(np.arange(3.0), file, subclass=np.ma.MaskedArray)
    with pytest.raises(ArtifactError, match="an array in a way that joblib does not"):
        unpickle_allowed(file)


def test_an_array_without_a_type_is_refused(file):
    file.write_bytes(b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}b.")
    for read in (read_contents, unpickle_allowed):
        with pytest.raises(ArtifactError, match="an array in a way that joblib does not"):
            read(file)
