"""`secfed attack masks`: every entry exact where one part of a mask is weak, and nothing from the real protocol."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secfed.attacks import reused_mask
from secfed.cli.leakage import weak_masks
from secfed.cli.leakage.weak_masks import RING_BITS, Settings, Variant
from secfed.cli.leakage.weak_sessions import Repeating, no_swap, self_mask_seed, session
from secfed.crypto import prg
from secfed.errors import ConfigError
from secfed.secagg import Client, Config
from secfed.secagg.states import Shared
from tests.cli.runner import Runner

SMALL = Settings(clients=4, length=64, self_bits=9, pair_bits=16)
VARIANTS = [weak_masks.weak_self_seed, weak_masks.weak_pair_seed, weak_masks.mask_reused, weak_masks.no_self_mask]


@pytest.fixture
def few_self_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command try 2^8 self seeds, which take most of its time."""
    run = weak_masks.run
    monkeypatch.setattr(weak_masks, "run", lambda settings: run(replace(settings, self_bits=8)))


def told(secfed: Runner, *options: object) -> dict[str, Any]:
    run = secfed("attack", "masks", "--json", "--seed-bits", 14, *options)
    assert run.exit_code == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.__name__)
def test_a_weak_part_gives_every_entry_and_the_real_protocol_none(variant: Any) -> None:
    for seed in range(3):
        found: Variant = variant(replace(SMALL, seed=seed))
        assert found.weak.success and found.weak.recovered == 1
        assert found.weak.luck is not None and found.weak.luck < 1e-50
        assert not found.control.success and found.control.recovered == 0
        if found.control.tries is None:
            assert found.control.luck is not None
            assert found.control.luck > 1e-9  # of noise, so below this once in 10^9 runs
        else:
            assert found.control.luck is None
            assert found.weak.tries is not None and found.control.tries >= found.weak.tries


def test_uniform_looks_tell_a_reused_mask_and_no_other_weakness() -> None:
    looks = {variant.__name__: variant(SMALL).looks_uniform for variant in VARIANTS}
    assert looks == {"weak_self_seed": True, "weak_pair_seed": True, "mask_reused": False, "no_self_mask": True}


def test_the_round_number_alone_keeps_repeated_secrets_from_repeating_a_mask() -> None:
    entropies = {party: Repeating() for party in range(5)}
    rounds = [SMALL.updates(4, number) for number in (0, 1)]
    seen = [
        session(Config(range(1, 5), 3, 64, RING_BITS, round=number), updates, entropies=entropies)
        for number, updates in enumerate(rounds)
    ]
    assert not reused_mask(seen[0].masked(1), seen[1].masked(1), RING_BITS).found


def test_the_server_computes_each_mask_that_is_on_a_vector() -> None:
    """A survivor's self mask, and a dropout's pair masks: without these the attacks would be on something else."""
    updates = SMALL.updates(4)
    seen = session(SMALL.config(4), updates, late=2)
    added, subtracted = seen.pair_masks(2)
    assert (len(added), len(subtracted)) == (2, 1)
    survivors = [1, 3, 4]
    unmasked = sum(seen.masked(i) - seen.self_mask(i) for i in survivors)
    # The survivors' pair masks with the dropout are what the dropout put on, the other way round.
    unmasked = unmasked + np.sum(added, axis=0, dtype=np.uint32) - np.sum(subtracted, axis=0, dtype=np.uint32)
    assert (unmasked == sum(updates[i] for i in survivors).astype(np.uint32)).all()


def test_a_client_that_breaks_the_sum_is_noticed() -> None:
    def swap(client: Client, state: Shared) -> tuple[list[bytes], list[bytes]]:
        return ([], [self_mask_seed(client, state)]) if client.client_id == 1 else no_swap(client, state)

    with pytest.raises(ConfigError, match="wrong sum"):
        session(SMALL.config(4), SMALL.updates(4), swap=swap)


def test_both_ways_to_expand_a_weak_seed_are_those_of_the_protocol() -> None:
    seeds = np.arange(250, 260, dtype=np.uint64)
    for expand, order in ((weak_masks.in_key, "little"), (weak_masks.in_counter, "big")):
        for entries in (1, 4, 5, 64):
            for seed, mask in zip(seeds.tolist(), expand(seeds, entries), strict=True):
                wanted = prg.expand(seed.to_bytes(32, order), entries, np.uint32)
                assert (mask == wanted).all()


@pytest.mark.usefixtures("few_self_seeds")
def test_the_command_tells_the_variants_and_that_masked_vectors_are_uniform(secfed: Runner) -> None:
    found = told(secfed, "--clients", 4, "--seed", 2)
    assert found["uniformity"]["passed"] and len(found["uniformity"]["tests"]) == 8
    assert (found["clients"], found["seed"], found["pair_bits"]) == (4, 2, 14)
    assert [each["name"] for each in found["variants"]] == [
        "weak self seed",
        "weak pair seed",
        "mask reused",
        "no self mask",
    ]
    assert all(each["weak"]["recovered"] == 1 and not each["control"]["success"] for each in found["variants"])
    # The first two attacks search. A search that finds no seed has no luck to speak of.
    assert [each["control"]["luck"] is None for each in found["variants"]] == [True, True, False, False]
    assert all(each["weak"]["luck"] < 1e-20 for each in found["variants"])


@pytest.mark.usefixtures("few_self_seeds")
def test_the_command_says_it_in_words_and_writes_no_file(secfed: Runner, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run = secfed("attack", "masks", "--seed-bits", 12, "--clients", 3)
    assert run.exit_code == 0 and list(tmp_path.iterdir()) == []
    assert "cannot be told from uniform numbers" in run.stdout
    assert run.stdout.count("100 % of the entries exact") == 4 == run.stdout.count("finds nothing")
    # Two attacks search. A search that finds no seed has no luck to speak of.
    failed = [line for line in run.stdout.splitlines() if "finds nothing" in line]
    assert [(" seeds in " in line, "(luck " in line) for line in failed] == [(True, False)] * 2 + [(False, True)] * 2


def test_the_same_seed_gives_the_same_updates_seeds_and_verdicts() -> None:
    """Seconds differ, and so do figures of the real protocol, whose secrets do not follow from a seed."""

    def figures(seed: int) -> list[tuple[Any, ...]]:
        found = weak_masks.run(replace(SMALL, seed=seed)).variants
        return [
            (each.name, each.weak.tries, each.weak.recovered, each.weak.luck, each.control.success, each.control.tries)
            for each in found
        ]

    assert figures(5) == figures(5) != figures(6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--aggregator", "secagg"), "--aggregator has no effect on the attack masks"),
        (("--privacy", "none"), "--privacy has no effect on the attack masks"),
        (("--epsilon", "1"), "--epsilon has no effect on the attack masks"),
        (("--delta", "0.1"), "--delta has no effect on the attack masks"),
        (("--clip-norm", "1"), "--clip-norm has no effect on the attack masks"),
        (("--key-bits", "2048"), "--key-bits has no effect on the attack masks"),
        (("--output", "somewhere"), "--output has no effect on the attack masks"),
        (("--seed-bits", "0"), "--seed-bits"),
        (("--seed-bits", "33"), "--seed-bits"),
    ],
)
def test_wrong_use_of_masks_ends_with_exit_code_2(secfed: Runner, options: tuple[str, ...], text: str) -> None:
    run = secfed("attack", "masks", *options)
    assert run.exit_code == 2 and run.stdout == ""
    assert text in " ".join(run.stderr.split())


@pytest.mark.parametrize("arguments", [("analytic",), ("inversion",), ("--all",)])
def test_bits_of_a_weak_seed_have_no_effect_on_other_attacks(secfed: Runner, arguments: tuple[str, ...]) -> None:
    run = secfed("attack", *arguments, "--seed-bits", 20)
    assert run.exit_code == 2 and "--seed-bits has no effect" in run.stderr


def test_two_clients_are_too_few_for_a_dropout(secfed: Runner) -> None:
    run = secfed("attack", "masks", "--clients", 2)
    assert run.exit_code != 0 and "2 clients: needed 3 to 100" in run.stderr


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clients": 101}, "101 clients: needed 3 to 100"),
        ({"length": 63}, "vectors of 63 entries: needed 64"),
        ({"self_bits": 0}, "self_bits is 0: needed 1 to 32"),
        ({"pair_bits": 33}, "pair_bits is 33: needed 1 to 32"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        replace(SMALL, **changes)


@pytest.mark.slow
def test_a_seed_of_28_bits_falls_with_every_entry_exact() -> None:
    found = weak_masks.weak_pair_seed(replace(SMALL, pair_bits=28))
    assert found.weak.recovered == 1 and found.control.tries == 1 << 28 and not found.control.success
