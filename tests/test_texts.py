"""pipeline.texts: every container of texts gives the same list of str."""

import copy
import pickle
import re
import types
from collections import UserDict, defaultdict, deque
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator

from pipeline.texts import (
    check_texts,
    check_words,
    check_X,
    group_numbers,
    take_columns,
    text_groups,
)

TEXTS = ["A quiet film.", "", "Überraschend gut 😀", "A quiet film.", " NA\n", "nan", "001"]


class Text(str):
    """A str that lies about how it is shown, as an enum member does."""

    __slots__ = ()

    def __str__(self):
        return "not the text"


def frozen(array):
    array.setflags(write=False)
    return array


string_dtype = np.dtypes.StringDType()

CONTAINERS = {
    "list": lambda t: list(t),
    "tuple": lambda t: tuple(t),
    "deque": lambda t: deque(t),
    "values of a dict": lambda t: dict(enumerate(t)).values(),
    "list of str subclass": lambda t: [Text(x) for x in t],
    "list of np.str_": lambda t: [np.str_(x) for x in t],
    "object array": lambda t: np.array(t, dtype=object),
    "U array": lambda t: np.array(t),
    "StringDType array": lambda t: np.array(t, dtype=string_dtype),
    "object array (n, 1)": lambda t: np.array(t, dtype=object)[:, None],
    "U array (n, 1)": lambda t: np.array(t)[:, None],
    "StringDType array (n, 1)": lambda t: np.array(t, dtype=string_dtype)[:, None],
    "read-only object array": lambda t: frozen(np.array(t, dtype=object)),
    "read-only U array (n, 1)": lambda t: frozen(np.array(t)[:, None]),
    "strided view": lambda t: np.repeat(np.array(t, dtype=object), 2)[::2],
    "Series object": lambda t: pd.Series(t, dtype=object),
    "Series str": lambda t: pd.Series(t, dtype="str"),
    "Series string[python]": lambda t: pd.Series(t, dtype="string[python]"),
    "Series string[pyarrow]": lambda t: pd.Series(t, dtype="string[pyarrow]"),
    "Series ArrowDtype": lambda t: pd.Series(t, dtype=pd.ArrowDtype(pa.string())),
    "Series large ArrowDtype": lambda t: pd.Series(t, dtype=pd.ArrowDtype(pa.large_string())),
    "Series category": lambda t: pd.Series(t, dtype="category"),
    "Series, index backwards": lambda t: pd.Series(t, index=range(len(t))[::-1]),
    "Series, index of duplicates": lambda t: pd.Series(t, index=[7] * len(t)),
    "Series, index of mixed labels": lambda t: pd.Series(
        t, index=pd.Index(["x", 0, None, 2.5, (1, 2), "x", 0][: len(t)], dtype=object)
    ),
    "Series, MultiIndex": lambda t: pd.Series(
        t, index=pd.MultiIndex.from_product([["a"], range(len(t))])
    ),
    "Index": lambda t: pd.Index(t),
    "Categorical": lambda t: pd.Categorical(t),
    "DataFrame": lambda t: pd.DataFrame({"text": t}),
    "DataFrame of categories": lambda t: pd.DataFrame({"text": pd.Categorical(t)}),
    "DataFrame, column 0, index of duplicates": lambda t: pd.DataFrame(t, index=[7] * len(t)),
    "DataFrame ArrowDtype": lambda t: pd.DataFrame({"text": t}, dtype=pd.ArrowDtype(pa.string())),
    "polars Series": lambda t: pl.Series(t),
    "polars Categorical": lambda t: pl.Series(t, dtype=pl.Categorical),
    "polars Enum": lambda t: pl.Series(t, dtype=pl.Enum(sorted(set(t)))),
    "polars DataFrame": lambda t: pl.DataFrame({"text": t}),
    "pyarrow Array": lambda t: pa.array(t),
    "pyarrow large string": lambda t: pa.array(t, pa.large_string()),
    "pyarrow string view": lambda t: pa.array(t, pa.string_view()),
    "pyarrow dictionary": lambda t: pa.array(t).dictionary_encode(),
    "pyarrow ChunkedArray": lambda t: pa.chunked_array([t[:2], [], t[2:]], pa.string()),
    "pyarrow ChunkedArray dictionary": lambda t: pa.chunked_array(
        [t[:2], t[2:]], pa.string()
    ).dictionary_encode(),
    "pyarrow Table": lambda t: pa.table({"text": t}),
    "pyarrow Table dictionary": lambda t: pa.table({"text": pa.array(t).dictionary_encode()}),
}


# ---- what is accepted


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_list_of_plain_str_and_is_left_as_it_was(name):
    X = CONTAINERS[name](TEXTS)
    before = [*X] if name == "values of a dict" else pickle.dumps(X)
    found = check_texts(X)
    assert found == TEXTS
    assert {type(text) for text in found} == {str}
    assert type(found) is list
    found.append("more")  # the caller's own list must not be the one handed back
    assert check_texts(CONTAINERS[name](TEXTS), on_invalid="coerce", missing="empty") == TEXTS
    assert check_texts(CONTAINERS[name](["one"])) == ["one"]
    assert ([*X] if name == "values of a dict" else pickle.dumps(X)) == before


def test_a_generator_is_read_once_to_its_end():
    seen = []
    texts = (seen.append(text) or text for text in TEXTS)
    assert check_texts(texts) == TEXTS
    assert seen == TEXTS
    assert check_texts(texts) == []


def test_the_rows_of_a_slice_are_those_of_the_slice():
    assert check_texts(pd.Series(TEXTS)[2:5]) == TEXTS[2:5]
    assert check_texts(pa.array(TEXTS).slice(2, 3)) == TEXTS[2:5]
    assert check_texts(pa.table({"text": TEXTS}).slice(2, 3)) == TEXTS[2:5]
    assert check_texts(np.array([TEXTS, TEXTS], dtype=object).T[:, 1:]) == TEXTS


# ---- any text at all


def reference_repair(text):
    """Slow and obvious: a high surrogate and the low one after it make a character."""
    repaired, i = [], 0
    while i < len(text):
        here, after = ord(text[i]), ord(text[i + 1]) if i + 1 < len(text) else 0
        if 0xD800 <= here < 0xDC00 and 0xDC00 <= after < 0xE000:
            repaired.append(chr(0x10000 + ((here - 0xD800) << 10) + (after - 0xDC00)))
            i += 1
        else:
            repaired.append("\ufffd" if 0xD800 <= here < 0xE000 else text[i])
        i += 1
    return "".join(repaired)


any_text = (
    st.text()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Lu"]), max_size=6)
)


@settings(deadline=None, database=None)
@given(st.lists(any_text))
@example(
    [
        "\ud83d\ude00",
        "\ude00\ud83d",
        "\ud83d\ud83d\ude00",
        "a\ud800",
        "\udfffb",
        "\ufeff\ud800\ufeff",
    ]
)
def test_coerce_repairs_surrogates_as_the_slow_reference_does_and_leaves_every_other_text(texts):
    found = check_texts(texts, on_invalid="coerce")
    assert found == [reference_repair(text) for text in texts]
    "".join(found).encode("utf-8")


@pytest.mark.parametrize(
    ("text", "position"), [("\ud800", 0), ("ab\udc80c", 2), ("ü\ud83d\ude00", 1)]
)
@pytest.mark.parametrize(
    "container", [list, lambda t: np.array(t, dtype=object), lambda t: pd.Series(t, dtype=object)]
)
def test_a_surrogate_is_refused_with_its_place_and_the_repair_that_is_named_works(
    container, text, position
):
    with pytest.raises(
        ValueError, match=rf"row 1 of X.*lone surrogate, '\\u.{{4}}', at character {position}"
    ) as caught:
        check_texts(container(["fine", text]))
    repair = re.search(r"text\.encode\(.*?\)\.decode\(.*?\)", str(caught.value)).group()
    assert check_texts([eval(repair, {"text": text})]) == [reference_repair(text)]


# ---- missing values

NOT_FOR_NONE = ("str subclass", "np.str_", "U array", "StringDType", "Enum", "index", "MultiIndex")
MISSING = {
    **{
        name: make(["a", None, "c"])
        for name, make in CONTAINERS.items()
        if not any(part in name for part in NOT_FOR_NONE)
    },
    **{
        repr(missing): ["a", missing, "c"]
        for missing in (float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"))
    },
    **{
        f"StringDType na {missing}": np.array(
            ["a", missing, "c"], dtype=np.dtypes.StringDType(na_object=missing)
        )
        for missing in (None, np.nan)
    },
}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("on_invalid", ["error", "coerce"])
def test_a_missing_text_is_refused_with_its_row_or_read_as_empty(name, on_invalid):
    with pytest.raises(
        ValueError,
        match=r"row 1 of X is (None|nan|<NA>|NaT|np\..*) \(missing.*missing='empty'",
    ):
        check_texts(MISSING[name], on_invalid=on_invalid)
    assert check_texts(MISSING[name], missing="empty", on_invalid=on_invalid) == ["a", "", "c"]


def test_only_missing_values_are_read_as_empty():
    with pytest.raises(TypeError, match="row 1 of X is of type int, 0"):
        check_texts([None, 0], missing="empty")


# ---- cells that are no text


@pytest.mark.parametrize(
    ("cell", "shown", "cure"),
    [
        (b"caf\xc3\xa9", r"bytes, b'caf\\xc3\\xa9'", r"decode it, as in data\.decode\('utf-8'\)"),
        (b"\xff\xfe", r"bytes, b'\\xff\\xfe'", "decode it"),
        (bytearray(b"x"), "bytearray", "decode it"),
        (np.bytes_(b"x"), "bytes_", "decode it"),
        (3, "int, 3", r"column\.astype\(str\), or set on_invalid='coerce'"),
        (np.int64(3), r"int64, np\.int64\(3\)", "on_invalid='coerce'"),
        (1.5, "float, 1.5", "on_invalid='coerce'"),
        (True, "bool, True", "on_invalid='coerce'"),
        (np.True_, "bool, np.True_", "on_invalid='coerce'"),
        (Decimal("1.50"), r"Decimal, Decimal\('1\.50'\)", "on_invalid='coerce'"),
        (date(2024, 5, 1), "date", "on_invalid='coerce'"),
        (Path("file.txt"), "Path, ", "on_invalid='coerce'"),
        ({"text": "x"}, r"dict, \{'text': 'x'\}", "on_invalid='coerce'"),
        ({"x"}, r"set, \{'x'\}", "on_invalid='coerce'"),
        (
            ["two", "words"],
            r"list, \['two', 'words'\]",
            r"' '\.join\(words\); only transform_tokens",
        ),
        (("a premise", "a claim"), r"tuple, \('a premise', 'a claim'\)", r"' '\.join\(words\)"),
        (np.array(["two", "words"]), "ndarray", r"' '\.join\(words\)"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    "container", [list, tuple, iter, lambda cells: pd.Series(cells, dtype=object)]
)
def test_a_cell_that_is_no_text_is_refused_with_row_type_value_and_cure(
    container, cell, shown, cure
):
    with pytest.raises(
        TypeError, match=rf"(?s)row 2 of X is of type \w*{shown}.*must be a string.*{cure}"
    ):
        check_texts(container(["a", "b", cell]))


@pytest.mark.parametrize(
    ("value", "shown"), [(10**59, str(10**59)), (10**60, "1" + "0" * 56 + "...")]
)
def test_a_value_of_more_than_60_characters_is_cut_in_the_message(value, shown):
    with pytest.raises(TypeError, match=rf"int, {re.escape(shown)};"):
        check_texts([value])


# ---- index labels


@pytest.mark.parametrize("wrong", [None, 3, "\ud800"], ids=["missing", "number", "surrogate"])
@pytest.mark.parametrize(
    ("index", "label"),
    [
        (["p", "q", "r"], "'r'"),
        ([7, 7, 7], "7"),
        ([2, 1, 0], "0"),
        ([10.5, 11.5, 12.5], r"12\.5"),
        (["0", "1", "2"], "'2'"),
        (pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]), r"\('b', .*1.*\)"),
        (pd.date_range("2024-05-01", periods=3), ".*2024-05-03.*"),
        (pd.Index([1, 2, pd.NA], dtype=object), "<NA>"),
        (pd.Index([1, 2, None], dtype="Int64"), "<NA>"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", ["Series", "DataFrame"])
def test_the_index_label_is_named_where_the_index_is_not_0_1_2(shape, index, label, wrong):
    X = pd.Series(["a", "b", wrong], index=index, dtype=object)
    with pytest.raises((TypeError, ValueError), match=rf"^row 2 \(index label .*{label}.*\) of X"):
        check_texts(X if shape == "Series" else X.to_frame("text"))


def test_no_index_label_is_named_where_the_index_counts_the_rows():
    with pytest.raises(ValueError, match=r"^row 1 of X is"):
        check_texts(pd.Series(["a", None]))
    with pytest.raises(ValueError, match=r"^row 1 of X is"):
        check_texts(pl.DataFrame({"text": ["a", None]}))


# ---- containers that are refused


MAPPING = r"expected a sequence of texts.*list\(X\.values\(\)\)"
REFUSED = [
    *(
        (X, ValueError, rf"X is a single string, {re.escape(repr(X))}; .*in a list: \[text\]")
        for X in ("one text", "", np.str_("one text"), Text("one text"))
    ),
    *(
        (X, TypeError, rf"X is a {type(X).__name__}; .*decode it and wrap it in a list: \[data")
        for X in (b"text", bytearray(b"text"))
    ),
    *(
        (X, TypeError, rf"X is a {type(X).__name__}; {MAPPING}")
        for X in ({"a": "text"}, {}, defaultdict(str, a="text"), UserDict(a="text"),
                  types.MappingProxyType({"a": "text"}))
    ),
    *(
        (X, TypeError, rf"X is a {type(X).__name__}; .*no fixed order of rows: pass a list")
        for X in ({"text"}, set(), frozenset({"text"}))
    ),
    *(
        (X.asformat(kind), TypeError, "X is a sparse matrix, .*Pass the raw texts, a list of str")
        for X in (sparse.csr_array(np.eye(2)), sparse.csr_matrix(np.eye(2)))
        for kind in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
    ),
    *(
        (X, TypeError, rf"X is a {type(X).__name__}, {re.escape(repr(X)[:57])}.*a list of str")
        for X in (None, 3, 2.5, True, object, pa.scalar("a"), pl.LazyFrame({"text": ["a"]}))
    ),
    *(
        (np.array(value), ValueError, rf"X is a single value, {value!r}; wrap it in a list")
        for value in ("text", 3)
    ),
    *(
        (np.full(shape, "text", dtype=object), ValueError,
         rf"array of {len(shape)} dimensions, shape {re.escape(str(shape))}; expected one column")
        for shape in ((1, 1, 1), (2, 3, 1), (1, 1, 1, 1))
    ),
    *(
        (X, ValueError, r"0 feature\(s\).*expected one column of text")
        for X in (np.empty((2, 0), dtype=object), pd.DataFrame(index=[0, 1]), pl.DataFrame(),
                  pa.table({}))
    ),
    (np.array([[1j]]), ValueError, "Complex data not supported: X is an array of complex numbers"),
]  # fmt: skip


@pytest.mark.parametrize("on_invalid", ["error", "coerce"])
@pytest.mark.parametrize(
    ("X", "error", "message"), REFUSED, ids=[type(X).__name__ for X, *_ in REFUSED]
)
def test_what_is_no_column_of_texts_is_refused_with_its_kind_and_the_cure(
    X, error, message, on_invalid
):
    with pytest.raises(error, match=message):
        check_texts(X, on_invalid=on_invalid)


TWO_COLUMNS = {
    "pandas": pd.DataFrame({"title": ["a"], "body": ["b"]}),
    "polars": pl.DataFrame({"title": ["a"], "body": ["b"]}),
    "pyarrow": pa.table({"title": ["a"], "body": ["b"]}),
    "pandas, columns 0 and 1": pd.DataFrame([["a", "b"]]),
    "pandas, MultiIndex columns": pd.DataFrame(
        [["a", "b"]], columns=pd.MultiIndex.from_tuples([("x", "y"), ("x", "z")])
    ),
    "object array": np.array([["a", "b"]], dtype=object),
    "U array": np.array([["a", "b"]]),
}


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_several_columns_are_refused_with_their_names_and_a_column_transformer_as_the_cure(name):
    cure = r"make_column_transformer\(\(BertVectorizer\(\), 'title'\)\)"
    with pytest.raises(
        ValueError,
        match=rf"DataFrame with 2 columns, \['title', 'body'\]; expected one column .*{cure}",
    ):
        check_texts(TWO_COLUMNS[name])


def test_several_columns_of_an_array_are_refused_with_its_shape():
    with pytest.raises(
        ValueError,
        match=r"X has 3 columns, shape \(2, 3\); expected one column of text.*as in X\[:, 0\]",
    ):
        check_texts(np.array([["a", "b", "c"]] * 2))


@pytest.mark.parametrize("name", TWO_COLUMNS)
def test_the_choice_of_a_column_that_the_error_names_can_be_pasted(name):
    X = TWO_COLUMNS[name]
    with pytest.raises(ValueError, match="Choose one, as in X") as caught:
        check_texts(X)
    choice = re.search(r"as in (X\[.*?\])(, or|\.$)", str(caught.value)).group(1)
    assert check_texts(eval(choice, {"X": X})) == ["a"]


# ---- on_invalid="coerce"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (3, "3"),
        (1.5, "1.5"),
        (True, "True"),
        (Decimal("1.50"), "1.50"),
        (date(2024, 5, 1), "2024-05-01"),
        (np.int64(3), "3"),
    ],
)
def test_coerce_turns_values_into_their_text(cell, text):
    assert check_texts(["a", cell], on_invalid="coerce") == ["a", text]


@pytest.mark.parametrize(
    "cell", [b"caf\xc3\xa9", bytearray(b"x"), np.bytes_(b"x")], ids=lambda cell: type(cell).__name__
)
def test_coerce_never_takes_the_repr_of_bytes_for_a_text(cell):
    with pytest.raises(TypeError, match=rf"row 1 of X is of type {type(cell).__name__}.*decode it"):
        check_texts(["a", cell], on_invalid="coerce")


@pytest.mark.parametrize("value", [float("inf"), -np.inf, np.float32("inf")], ids=repr)
def test_infinity_is_refused_even_under_coerce(value):
    with pytest.raises(ValueError, match=r"row 1 of X is .*inf.*infinity"):
        check_texts([["a"], [value]], on_invalid="coerce")


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"title": ["a", "c"], "stars": [1, 2], "body": ["b", "d"]}),
        pl.DataFrame({"title": ["a", "c"], "stars": [1, 2], "body": ["b", "d"]}),
        pa.table({"title": ["a", "c"], "stars": [1, 2], "body": ["b", "d"]}),
        np.array([["a", 1, "b"], ["c", 2, "d"]], dtype=object),
        [["a", 1, "b"], ["c", 2, "d"]],
        (("a", 1, "b"), ("c", 2, "d")),
        iter([("a", 1, "b"), ("c", 2, "d")]),
    ],
    ids=lambda X: type(X).__module__ + "." + type(X).__name__,
)
def test_coerce_joins_several_columns_by_a_blank_row_by_row(X):
    assert check_texts(X, on_invalid="coerce") == ["a 1 b", "c 2 d"]


def test_coerce_joins_missing_cells_as_empty_ones_only_where_they_are_allowed():
    X = pd.DataFrame({"title": ["a", None], "body": ["b", "d"]})
    with pytest.raises(ValueError, match=r"row 1 of X is (nan|None) \(missing"):
        check_texts(X, on_invalid="coerce")
    assert check_texts(X, on_invalid="coerce", missing="empty") == ["a b", " d"]


@pytest.mark.parametrize(
    "X",
    [[["a", "b"], ["c"]], [["a", "b"], "c"], ["c", ["a", "b"]], pd.Series([["a", "b"], ["c"]])],
    ids=["ragged table", "a row that is none", "a text and a row", "Series of lists"],
)
def test_coerce_never_takes_the_repr_of_a_list_for_a_text(X):
    with pytest.raises((TypeError, ValueError), match=r"row \d of X"):
        check_texts(X, on_invalid="coerce")


def test_coerce_refuses_flat_numbers_but_takes_a_column_of_them():
    with pytest.raises(
        ValueError, match=r"Expected 2D array, got 1D array of numbers.*reshape\(-1, 1\)"
    ):
        check_texts(np.array([1.5, 2]), on_invalid="coerce")
    assert check_texts(np.array([[1.5], [2]]), on_invalid="coerce") == ["1.5", "2.0"]
    assert check_texts(pd.Series([1, 2]), on_invalid="coerce") == ["1", "2"]


def test_coerce_reads_the_times_of_a_series_as_pandas_shows_them():
    times = pd.Series(pd.to_datetime(["2024-05-01 12:30"]))
    assert check_texts(times, on_invalid="coerce") == ["2024-05-01 12:30:00"]


# ---- words


@pytest.mark.parametrize(
    "X",
    [
        [["two", "words"], ["one"], []],
        [("two", "words"), ["one"], ()],
        iter([["two", "words"], ["one"], []]),
        [np.array(["two", "words"]), np.array(["one"]), np.array([], dtype=str)],
        pd.Series([["two", "words"], ["one"], []], index=[4, 4, 4]),
        pd.DataFrame({"words": [["two", "words"], ["one"], []]}),
        pl.Series([["two", "words"], ["one"], []]),
        pl.DataFrame({"words": [["two", "words"], ["one"], []]}),
        pa.array([["two", "words"], ["one"], []]),
        pa.table({"words": [["two", "words"], ["one"], []]}),
    ],
    ids=lambda X: type(X).__module__ + "." + type(X).__name__,
)
def test_split_texts_come_back_as_tuples_of_words(X):
    found = check_words(take_columns(X))
    assert found == [("two", "words"), ("one",), ()]
    assert {type(word) for row in found for word in row} == {str}


@pytest.mark.parametrize(
    "X", [TEXTS, [], pd.Series(TEXTS), pd.DataFrame({"a": [["x"]], "b": [["y"]]}), [None], [3]]
)
def test_what_does_not_hold_lists_of_words_is_left_to_check_texts(X):
    before = copy.deepcopy(X)
    assert check_words(take_columns(X)) is None
    assert str(X) == str(before)


@pytest.mark.parametrize(
    ("X", "type_name"), [([["a"], ["b"], "c"], "str"), ([["a"], ["b"], None], "NoneType")], ids=str
)
def test_a_text_among_split_texts_is_refused(X, type_name):
    with pytest.raises(
        TypeError,
        match=rf"row 2 of X is of type {type_name}, row 0 is a list of words; use one kind",
    ):
        check_words(take_columns(X))


def test_a_split_text_among_texts_is_refused():
    with pytest.raises(TypeError, match=r"row 2 of X is a list.* row 0 is of type str; use one"):
        check_words(take_columns(["a", None, ["c"]]))


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        (3, TypeError, "type int, 3"),
        (b"row 0", TypeError, "type bytes, b'row 0'.*decode"),
        (None, ValueError, "None"),
        (float("nan"), ValueError, "nan"),
        ("\ud800", ValueError, "lone surrogate"),
    ],
    ids=repr,
)
def test_a_wrong_word_is_refused_with_the_row_it_is_in(word, error, message):
    with pytest.raises(error, match=rf"^row 3, word 1 of X.*{message}"):
        check_words(take_columns([["a"], ["b"], ["c"], ["d", word]]))
    with pytest.raises(error, match=rf"index label 'q'.*{message}"):
        check_words(take_columns(pd.Series([["a"], ["d", word]], index=["p", "q"])))


# ---- what an estimator knows of the columns it was fitted on


class Reader(BaseEstimator):
    """Takes the two parameters that say what becomes of wrong values."""

    def __init__(self, missing="error", on_invalid="error"):
        self.missing = missing
        self.on_invalid = on_invalid


def fitted_on(X, **parameters):
    reader = Reader(**parameters)
    check_X(reader, X, reset=True)
    return reader


FRAME = pd.DataFrame({"title": ["a", "c"], "body": ["b", "d"]})


@pytest.mark.parametrize(
    ("X", "n_columns", "names"),
    [
        (["a", "c"], 1, None),
        (np.array([["a"], ["c"]]), 1, None),
        (FRAME[["title"]], 1, ["title"]),
        (FRAME, 2, ["title", "body"]),
        (pl.DataFrame({"title": ["a"], "body": ["b"]}), 2, ["title", "body"]),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), 2, None),
        ({0: ("a", 1, "b"), 1: ("c", 2, "d")}.values(), 3, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fit_learns_the_number_and_the_names_of_the_columns_alone(X, n_columns, names):
    reader = fitted_on(pd.DataFrame({"of an earlier fit": ["a"]}))
    reader.on_invalid = "coerce"
    check_X(reader, X, reset=True)
    assert reader.n_features_in_ == n_columns
    found = getattr(reader, "feature_names_in_", None)
    assert (None if found is None else found.tolist()) == names


def test_texts_need_no_name_and_a_name_no_fit():
    for before in (["a"], np.array([["a"]]), FRAME[["title"]]):
        assert check_X(fitted_on(before), ["a", "b"], reset=False) == ["a", "b"]
    for before in (["a"], np.array([["a"]])):
        for X in (FRAME[["body"]], np.array([["b"], ["d"]])):
            assert check_X(fitted_on(before), X, reset=False) == ["b", "d"]


@pytest.mark.parametrize(
    ("before", "X", "message"),
    [
        (FRAME[["title"]], FRAME[["body"]], "(?s)feature names.*unseen.*body.*missing.*title"),
        (FRAME, FRAME[["body", "title"]], "(?s)feature names.*same order"),
        (FRAME, FRAME[["title"]], "(?s)feature names.*missing.*body"),
        (FRAME.to_numpy(), ["a"], "X has 1 features, but Reader is expecting 2 features"),
        (FRAME, ["a"], "X has 1 features, but Reader is expecting 2 features"),
        (["a"], FRAME.to_numpy(), "X has 2 features, but Reader is expecting 1 features"),
    ],
)
def test_other_columns_than_those_of_the_fit_are_refused(before, X, message):
    reader = fitted_on(before, on_invalid="coerce")
    with pytest.raises(ValueError, match=message):
        check_X(reader, X, reset=False)


def test_an_estimator_says_what_becomes_of_missing_and_of_other_values_and_else_refuses_both():
    assert check_X(Reader(missing="empty"), ["a", None], reset=True) == ["a", ""]
    assert check_X(Reader(on_invalid="coerce"), ["a", 1], reset=True) == ["a", "1"]
    assert check_X(Reader(on_invalid="coerce"), [["a", 1]], reset=True) == ["a 1"]
    for reader in (Reader(), BaseEstimator()):
        assert check_X(reader, ["a", "b"], reset=True) == ["a", "b"]
        for wrong in (None, 1):
            with pytest.raises((TypeError, ValueError), match=rf"row 1 of X is .*{wrong}"):
                check_X(reader, ["a", wrong], reset=True)


# ---- texts that belong together


def test_texts_are_equal_but_for_case_blanks_and_forms_of_letters():
    texts = [
        "A  film",
        "caf\u00e9",
        "a FILM\n",
        "cafe\u0301",
        "\uff41 film",
        "a film.",
        "STRASSE",
        "stra\u00dfe",
    ]
    assert text_groups(texts).tolist() == [0, 1, 0, 1, 0, 2, 3, 3]
    assert text_groups(["a", "b", ""]) is None
    assert text_groups([]) is None


@settings(deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_texts_that_share_a_text_or_a_group_by_any_chain_are_together(rows):
    together = [{i} for i in range(len(rows))]
    for i, (text, group) in enumerate(rows):
        for j, (other_text, other_group) in enumerate(rows[:i]):
            if text == other_text or group == other_group:
                joined = together[i] | together[j]
                for k in joined:
                    together[k] = joined
    found = text_groups(
        [str(text) for text, _ in rows], group_numbers([group for _, group in rows], len(rows))
    )
    if found is None:
        assert all(len(own) == 1 for own in together)
    else:
        assert together == [set(np.flatnonzero(found == number)) for number in found]
        assert len(set(found)) < len(rows)


def test_groups_of_any_kind_become_numbers():
    assert group_numbers(None, 3) is None
    for groups in (
        ["x", "y", "x"],
        pd.Series([2.5, 0, 2.5], index=[7, 7, 7]),
        [(1, 2), "a", (1, 2)],
    ):
        assert group_numbers(groups, 3).tolist() == [0, 1, 0]
    assert group_numbers([], 0).dtype == np.int64


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["x", "y"], "groups holds 2 values for 3 texts"),
        (["x", None, "y"], "groups is missing for 1 of 3 texts, first for text 1"),
        (np.array([0, np.nan, np.nan]), "groups is missing for 2 of 3 texts, first for text 1"),
    ],
)
def test_groups_that_do_not_cover_the_texts_are_refused_with_the_numbers(groups, message):
    with pytest.raises(ValueError, match=message):
        group_numbers(groups, 3)
