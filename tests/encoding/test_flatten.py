"""Updates of any shape to flat arrays and back; the hash of a model."""

import doctest
import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secfed.encoding import flatten as module
from secfed.encoding.flatten import Update, flatten, model_hash, structure, unflatten
from secfed.errors import EncodingError
from tests.examples import examples

DTYPES = st.sampled_from(["<f2", "<f4", "<f8", ">f4"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=5)
UPDATES = st.recursive(
    ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
SAMPLE: dict[str, Any] = {
    "layer": [np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7.0, 8.0])],
    "bias": np.array(9.0, np.float16),
}


def same(left: Update, right: Update) -> bool:
    """Whether two updates have the same structure, types and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left.dtype == right.dtype and left.shape == right.shape and np.array_equal(left, right, equal_nan=True)


def is_update(update: Update) -> bool:
    try:
        structure(update)
    except EncodingError:
        return False
    return True


@examples(17, 200)
@given(UPDATES)
def test_update_of_any_nesting_and_dtype_comes_back(update: Update) -> None:
    assume(is_update(update))
    like = structure(update)
    values = flatten(update)
    assert values.shape == (like.size,)
    assert same(unflatten(values, like), update)
    assert same(unflatten(values.astype(np.float64), like), update)


@examples(10, 100)
@given(st.dictionaries(NAMES, UPDATES, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_order_of_a_dictionary_does_not_matter(update: dict[str, Update], chance: Any) -> None:
    assume(is_update(update))
    names = list(update)
    chance.shuffle(names)
    shuffled = {name: update[name] for name in names}
    assert np.array_equal(flatten(shuffled), flatten(update), equal_nan=True)
    assert model_hash(shuffled) == model_hash(update)
    assert structure(update).difference(structure(shuffled)) == ""
    assert same(unflatten(flatten(update), structure(shuffled)), shuffled)


def test_order_is_that_of_the_specification() -> None:
    square = np.array([[1.0, 2.0], [3.0, 4.0]])
    update = {"b": square.T, "a10": np.array([5.0]), "a9": [np.array([6.0]), np.array([7.0])]}
    assert flatten(update).tolist() == [5.0, 6.0, 7.0, 1.0, 3.0, 2.0, 4.0]
    assert structure(update).paths == ("a10", "a9/0", "a9/1", "b")
    assert flatten({10: np.array([1.0]), 9: np.array([2.0])}).tolist() == [1.0, 2.0]


def test_array_alone_is_an_update() -> None:
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert flatten(array).tolist() == [0, 1, 2, 3]
    assert same(unflatten(flatten(array), structure(array)), array)


def test_arrays_of_zero_dimensions_come_back() -> None:
    update = [np.array(1.5), np.array(2.5, np.float32)]
    assert structure(update).shapes == ((), ())
    assert same(unflatten(flatten(update), structure(update)), update)


def test_tuples_come_back_as_tuples() -> None:
    update = (np.array([1.0]), (np.array([2.0]), [np.array([3.0])]))
    back = unflatten(flatten(update), structure(update))
    assert isinstance(back, tuple)
    assert isinstance(back[1], tuple)
    assert isinstance(back[1][1], list)


class Layer(NamedTuple):
    kernel: np.ndarray
    bias: np.ndarray


def test_named_tuples_keep_their_type_at_any_depth() -> None:
    update = {"first": Layer(np.ones((2, 3)), np.zeros(3, np.float32)), "others": [Layer(np.ones(1), np.ones(1))]}
    like = structure(update)
    back = unflatten(flatten(update) * 2, like)
    assert type(back["first"]) is type(back["others"][0]) is Layer
    assert np.array_equal(back["first"].kernel, np.full((2, 3), 2.0))
    assert back["first"].bias.dtype == np.float32


@pytest.mark.parametrize("mask", [False, [False, False], [True, False]])
def test_masked_array_is_refused_by_name(mask: Any) -> None:
    masked = np.ma.masked_array([1.0, 2.0], mask=mask)
    for function in (structure, flatten, model_hash):
        with pytest.raises(EncodingError, match="layer/1 is a masked array, needed a plain one"):
            function({"layer": [np.ones(1), masked]})


def test_refused_dtype_comes_with_the_conversion() -> None:
    # An extension dtype such as bfloat16 has the kind "V".
    with pytest.raises(EncodingError, match=r"has dtype \|V2, needed .* convert it, as with astype\(np\.float32\)"):
        structure(np.zeros(3, "V2"))


def test_result_shares_no_memory_with_what_it_was_cut_from() -> None:
    values = np.zeros(9)
    update = unflatten(values, structure(SAMPLE))
    update["layer"][0][:] = 1
    update["layer"][1][:] = 1
    assert not values.any()


@pytest.mark.parametrize("dtypes", [("f2", "f2"), ("f4", "f4"), ("f2", "f4"), ("f4", "f8"), ("f8", "f2")])
def test_flat_array_has_a_dtype_that_loses_nothing(dtypes: tuple[str, str]) -> None:
    update = [np.array([1 / 3], dtype) for dtype in dtypes]
    values = flatten(update)
    assert values.dtype == np.result_type(*dtypes)
    assert values.tolist() == [float(update[0][0]), float(update[1][0])]


@pytest.mark.parametrize("update", [[], {}, (), [[], {}], {"a": []}])
def test_update_without_arrays_is_refused(update: Update) -> None:
    with pytest.raises(EncodingError, match="holds no array"):
        structure(update)


@pytest.mark.parametrize("update", [np.zeros(0), [np.zeros((3, 0))], {"a": np.zeros(0), "b": np.zeros((0, 5))}])
def test_update_without_values_is_refused(update: Update) -> None:
    with pytest.raises(EncodingError, match="holds no value"):
        structure(update)


def test_empty_array_among_others_comes_back() -> None:
    update = {"a": np.zeros((2, 0), np.float32), "b": np.ones(3)}
    assert same(unflatten(flatten(update), structure(update)), update)


@pytest.mark.parametrize("dtype", ["i4", "u1", "?", "c16", "O", "U3", "M8[s]"])
def test_array_of_anything_but_floats_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(EncodingError, match=r"layer/1 has dtype .* needed floating-point"):
        structure({"layer": [np.zeros(2), np.zeros(2, dtype)]})


@pytest.mark.parametrize("thing", [None, "text", b"bytes", object(), {1, 2}])
def test_thing_that_is_no_array_is_refused_by_name(thing: Any) -> None:
    with pytest.raises(EncodingError, match="odd has dtype"):
        structure({"odd": thing})


@pytest.mark.parametrize("number", [1, 1.0, True])
def test_plain_number_is_refused_by_name(number: float) -> None:
    with pytest.raises(EncodingError, match="a/0 is a plain number"):
        structure({"a": [number]})
    with pytest.raises(EncodingError, match="the update is a plain number"):
        structure(number)


def test_names_that_are_the_same_as_strings_are_refused() -> None:
    with pytest.raises(EncodingError, match="two names in the update"):
        structure({1: np.zeros(1), "1": np.zeros(1)})
    with pytest.raises(EncodingError, match="two names in a"):
        structure({"a": {1: np.zeros(1), "1": np.zeros(1)}})


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"layer": SAMPLE["layer"]}, r"arrays \['bias'\] are in one"),
        ({**SAMPLE, "extra": np.zeros(1)}, r"arrays \['extra'\] are in one"),
        ({**SAMPLE, "layer": SAMPLE["layer"][:1]}, r"arrays \['layer/1'\] are in one"),
        ({**SAMPLE, "bias": np.zeros((1,), "f2")}, r"bias has shape \(1,\), needed \(\)"),
        ({**SAMPLE, "layer": [np.zeros((3, 2), "f4"), np.zeros(2)]}, r"layer/0 has shape \(3, 2\), needed \(2, 3\)"),
        ({**SAMPLE, "bias": np.array(0.0)}, "bias has dtype float64, needed float16"),
        (np.zeros(9), "are in one but not in the other"),
    ],
)
def test_difference_is_named(other: Update, text: str) -> None:
    assert re.search(text, structure(SAMPLE).difference(structure(other)))
    assert structure(other).difference(structure(SAMPLE))


def test_equal_structures_do_not_differ() -> None:
    other = {"bias": np.array(0.0, np.float16), "layer": [np.ones((2, 3), np.float32), np.zeros(2)]}
    assert structure(SAMPLE).difference(structure(other)) == ""
    assert structure(np.zeros(3)).difference(structure(np.ones(3))) == ""


def test_array_alone_is_called_so() -> None:
    assert structure(np.zeros(3)).difference(structure(np.zeros(4))) == "the array has shape (4,), needed (3,)"


def test_hash_has_32_bytes_and_stays_the_same() -> None:
    assert len(model_hash(SAMPLE)) == 32
    assert model_hash(SAMPLE) == model_hash({key: SAMPLE[key] for key in reversed(SAMPLE)})


def test_hash_changes_with_every_bit() -> None:
    array = np.array([1.5, -2.0], np.float32)
    hashes = {model_hash([array])}
    for bit in range(64):
        altered = bytearray(array.tobytes())
        altered[bit // 8] ^= 1 << bit % 8
        hashes.add(model_hash([np.frombuffer(bytes(altered), np.float32)]))
    assert len(hashes) == 65


def test_hash_tells_minus_zero_from_zero() -> None:
    assert model_hash(np.array([0.0])) != model_hash(np.array([-0.0]))


def test_hash_changes_with_names_shapes_dtypes_and_cuts() -> None:
    values = np.zeros(4)
    models: list[Update] = [
        values,
        [values],
        {"a": values},
        {"b": values},
        {"a": values.reshape(2, 2)},
        {"a": values.reshape(4, 1)},
        {"a": values.astype("f4")},
        {"a": np.zeros(8, "f4")},
        {"a": np.zeros(16, "f2")},
        {"a": values[:2], "b": values[2:]},
        {"a": values[:1], "b": values[1:]},
        [values[:2], values[2:]],
        {"a": [values]},
        {"a": values, "b": np.zeros(0)},
    ]
    assert len({model_hash(model) for model in models}) == len(models)


def test_hash_and_structure_tell_a_nested_name_from_one_with_a_slash() -> None:
    nested, flat = {"a": {"b": np.zeros(2)}}, {"a/b": np.zeros(2)}
    assert model_hash(nested) != model_hash(flat)
    assert structure(nested).difference(structure(flat))


def test_hash_does_not_change_with_memory_layout_or_byte_order() -> None:
    array = np.arange(12, dtype=np.float64).reshape(3, 4)
    strided = np.repeat(array, 2, axis=1)[:, ::2]
    forms = [array, np.asfortranarray(array), array[::-1].copy()[::-1], strided, array.astype(">f8")]
    assert len({model_hash({"a": form}) for form in forms}) == 1
    assert all(flatten(form).tolist() == array.reshape(-1).tolist() for form in forms)


def test_examples_in_the_documentation_run() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_scalar_of_numpy_counts_as_an_array_without_dimensions(dtype: str) -> None:
    # The difference of two arrays without dimensions is a scalar in numpy; a model may have such parameters.
    update = {"temperature": np.array(2.0, dtype) - np.array(0.5, dtype)}
    again = unflatten(flatten(update), structure(update))
    assert again["temperature"].shape == ()
    assert again["temperature"] == np.array(1.5, dtype)
