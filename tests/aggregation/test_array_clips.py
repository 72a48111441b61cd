"""Clips of arrays: what `clip=` and `clip_norm=` take, and a proposal from examples."""

from collections import namedtuple
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import secfed
from secfed.aggregation import AdaptiveClipping, ArrayClips, RandomK, RandomRotation, propose_clips
from secfed.encoding.flatten import structure
from secfed.errors import ConfigError, EncodingError

Pair = namedtuple("Pair", "first second")
UPDATE = {"a": np.array([0.5, -2.0]), "b/c": [np.zeros((2, 0)), np.array(0.25, np.float32)], "10": np.array([[3.0]])}
CLIPS = {"a": 1.5, "b/c": [2, np.float32(0.5)], "10": 1e3}


def test_clips_come_in_the_order_in_which_arrays_are_joined() -> None:
    assert ArrayClips("clip", CLIPS).of(structure(UPDATE)) == (1e3, 1.5, 2.0, 0.5)


@pytest.mark.parametrize("clips", [[1, 2.5], (1.0, np.float64(2.5)), Pair(1, 2.5)])
def test_list_of_clips_is_for_a_list_of_arrays(clips: Any) -> None:
    assert ArrayClips("clip", clips).of(structure([np.zeros(3), np.zeros(2)])) == (1.0, 2.5)


def test_clips_are_a_mapping_by_path_that_does_not_change() -> None:
    given = {"w": 1.0, "b": 2.0}
    clips = secfed.SecAgg(clip=given).clip
    given["w"] = 9.0
    assert clips == {"b": 2.0, "w": 1.0} and isinstance(clips, ArrayClips)
    assert hash(clips) == hash(ArrayClips("clip", {"b": 2, "w": 1})) and repr(clips) == "{'b': 2.0, 'w': 1.0}"


def test_aggregators_and_privacy_with_clips_can_be_hashed_and_replaced() -> None:
    for thing in (
        secfed.SecAgg(clip=CLIPS),
        secfed.Paillier(clip=CLIPS),
        secfed.CentralGaussian(CLIPS, 1.0),
        secfed.DistributedGaussian(CLIPS, 1.0),
    ):
        again: Any = replace(thing)
        assert again == thing and hash(again) == hash(thing)


@pytest.mark.parametrize(
    ("clips", "text"),
    [
        ({"a": 1.0, "10": 1.0}, r"2 of 4 arrays have no clip: \['b~1c/0', 'b~1c/1'\]; needed"),
        (CLIPS | {"d": 1.0}, r"^clip names \['d'\], which the update does not have"),
        ({"a": 1.0, "b/c": 2.0, "10": 1.0}, r"2 of 4 arrays have no clip: .*; clip names \['b~1c'\]"),
        ([1.0, 2.0, 3.0, 4.0], "4 of 4 arrays have no clip"),
    ],
)
def test_clips_of_another_structure_are_refused_with_their_names(clips: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        secfed.SecAgg(clip=clips, max_weight=1).aggregate([UPDATE, UPDATE])
    with pytest.raises(ConfigError, match=text.replace("clip", "clip_norm")):
        secfed.Plain().aggregate([UPDATE, UPDATE], privacy=secfed.CentralGaussian(clips, 1.0))


@pytest.mark.parametrize("clips", [{"w": 1.0}, [1.0]])
def test_clips_of_arrays_are_refused_for_an_update_that_is_one_array(clips: Any) -> None:
    with pytest.raises(ConfigError, match="1 of 1 arrays have no clip"):
        secfed.SecAgg(clip=clips, max_weight=1).aggregate([np.ones(2), np.ones(2)])


NO_CLIPS = [{"w": 1.0, "b": bad} for bad in (0, -1.0, np.nan, np.inf, 1e-101, 1e101, "1", None, True, np.ones(2))]


@pytest.mark.parametrize("clips", [*NO_CLIPS, {}, [], {"w": []}], ids=str)
@pytest.mark.parametrize("name", ["clip", "clip_norm"])
def test_what_is_no_clip_is_refused(clips: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} "):
        secfed.SecAgg(clip=clips) if name == "clip" else secfed.CentralGaussian(clips, 1.0)


def test_two_names_that_are_the_same_as_strings_are_refused() -> None:
    with pytest.raises(ConfigError, match="the same as strings"):
        secfed.SecAgg(clip={1: 1.0, "1": 2.0})


def test_rotation_has_no_arrays_that_could_have_clips() -> None:
    for compression in (RandomRotation(), (RandomK(0.5), RandomRotation())):
        with pytest.raises(ConfigError, match="RandomRotation mixes the values of all arrays"):
            secfed.SecAgg(clip=CLIPS, compression=compression)
        with pytest.raises(ConfigError, match="RandomRotation mixes"):
            secfed.Paillier(clip=CLIPS, compression=compression)


def test_adaptive_clipping_and_compression_need_one_clip_norm() -> None:
    with pytest.raises(ConfigError, match="adaptive follows one clip_norm"):
        secfed.CentralGaussian(CLIPS, 1.0, adaptive=AdaptiveClipping())
    with pytest.raises(ConfigError, match="compressed values have no clip_norm for each array"):
        secfed.Plain(compression=RandomK(0.5)).aggregate([UPDATE] * 2, privacy=secfed.CentralGaussian(CLIPS, 1.0))


def test_whole_norm_is_the_root_of_the_sum_of_squares() -> None:
    assert secfed.CentralGaussian({"a": 3.0, "b": 4.0}, 1.0).whole_norm == 5.0
    assert secfed.DistributedGaussian([5, 12], 1.0).whole_norm == 13.0
    assert secfed.CentralGaussian(2, 1.0).whole_norm == 2.0
    with pytest.raises(ConfigError, match="1e-100 to 1e100"):
        secfed.CentralGaussian([1e100, 1e100], 1.0)


def test_proposal_is_the_largest_value_of_each_array_times_the_margin() -> None:
    example = {"a": np.array([0.5, -2.0], np.float32), "b": [np.array([[1e-3]]), np.array(0.25)]}
    larger = {"a": np.array([0.5, 1.0], np.float32), "b": [np.array([[-4e-3]]), np.array(0.0)]}
    assert propose_clips(example) == {"a": 4.0, "b": [2e-3, 0.5]}
    assert propose_clips(example, larger, margin=3) == {"a": 6.0, "b": [pytest.approx(12e-3), 0.75]}
    assert propose_clips(np.array([1.0, -1.5])) == 3.0
    clips = propose_clips(example, larger)
    result = secfed.SecAgg(threshold=2, clip=clips).aggregate([example, larger])
    assert result.mean["b"][0] == pytest.approx(np.array([[-1.5e-3]]), abs=1e-6)


def test_proposal_refuses_what_says_nothing_about_clips() -> None:
    with pytest.raises(ConfigError, match="found no example"):
        propose_clips()
    with pytest.raises(ConfigError, match=r"arrays \['b'\] have no value other than 0"):
        propose_clips({"a": np.ones(1), "b": np.zeros(2)})
    with pytest.raises(ConfigError, match="margin"):
        propose_clips(np.ones(1), margin=0)
    with pytest.raises(EncodingError, match="not finite"):
        propose_clips(np.array([1.0, np.nan]))
    with pytest.raises(EncodingError, match="shape"):
        propose_clips(np.ones(1), np.ones(2))
