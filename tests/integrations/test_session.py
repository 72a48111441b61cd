"""What a site refuses, whatever the server asks for; no framework runs here."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secfed import CentralGaussian, DistributedGaussian, Paillier, SecAgg, secagg
from secfed.aggregation import AdaptiveClipping, Compressed, LowRank, PerArrayClipping, PrivateSum, RandomK, Transform
from secfed.encoding.flatten import flatten
from secfed.errors import (
    ConfigError,
    EncodingError,
    FaultyServerError,
    MalformedMessageError,
    SecFedError,
    StageError,
    TooFewSurvivorsError,
)
from secfed.integrations.session import Site, Terms

MODEL = {"weight": np.zeros((3, 2)), "bias": np.zeros(2, np.float32)}
TERMS = Terms(SecAgg(threshold=3, clip=1.0, max_weight=16))
NOISY = Terms(
    SecAgg(threshold=3), DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, layers=2, minimum_survivors=3)
)
SECRET = "patient 4711"
TOKEN = bytes(32)


def train(model: Any, round: int) -> Any:
    return {name: np.full_like(array, 0.25) for name, array in model.items()}, 4


class Round:
    """A server's side of a round under some terms, for the test to change."""

    def __init__(self, terms: Terms = TERMS, *, clients: int = 4, round: int = 1, model: Any = MODEL) -> None:
        self.model = model
        self.transform: Transform
        self.transform, self.config = terms.prepare(model, clients, round)
        self.server = secagg.Server(self.config)
        self.outbox = self.server.open()

    def ask(self, site: Site, client_id: int = 1, **changed: Any) -> bytes:
        sent = {
            "client_id": client_id,
            "model": self.model,
            "transform": self.transform.to_bytes(),
            "config": self.config.to_bytes(),
        }
        return site.join(TOKEN, self.outbox[client_id], **{**sent, **changed})

    def run(self, sites: dict[int, Site], *, gone_after: int = 0) -> None:
        """Run a session to its end, without site 2 once so many stages are over."""
        for client_id, site in sites.items():
            self.server.receive(client_id, self.ask(site, client_id))
        self.outbox = self.server.close_stage()
        stages = 1
        while not self.server.done:
            for client_id, request in self.outbox.items():
                if client_id != 2 or not 0 < gone_after <= stages:
                    self.server.receive(client_id, sites[client_id].receive(TOKEN, request))
            self.outbox = self.server.close_stage()
            stages += 1


def test_sites_give_the_weighted_mean_of_those_that_stay() -> None:
    sites = {
        number: Site(TERMS, lambda model, round, number=number: (train(model, round)[0], number))
        for number in range(1, 5)
    }
    round = Round()
    round.run(sites, gone_after=2)
    decoded = round.transform.decode(round.server.sum, round.server.survivors)
    assert round.server.survivors == (1, 3, 4)
    assert decoded.weight == 1 + 3 + 4
    np.testing.assert_allclose(decoded.mean["weight"], np.full((3, 2), 0.25), rtol=0, atol=2 / 2**16)


SHORT = SecAgg(threshold=3, clip=1.0, max_weight=16, bits=16, scale_weights=True, compression=LowRank(2))


@pytest.mark.parametrize("privacy", [None, DistributedGaussian(1.0, 1e-3, layers=2, minimum_survivors=3)], ids=str)
def test_sites_send_compressed_updates(privacy: Any) -> None:
    terms = Terms(SHORT if privacy is None else replace(SHORT, scale_weights=False), privacy)
    sites = {number: Site(terms, train) for number in range(1, 5)}
    round = Round(terms)
    round.run(sites)
    transform = round.transform
    assert isinstance(transform, Compressed)
    total = round.server.sum
    if isinstance(transform.inner, PrivateSum) and (surplus := transform.inner.surplus_noise((1, 2, 3, 4))):
        for number, site in sites.items():
            surplus.receive(number, site.receive(TOKEN, surplus.request))
        total = surplus.subtract(total)
    mean = transform.decode(total, round.server.survivors).mean
    expected = transform.maps.expand(transform.maps.compress(train(MODEL, 1)[0]))
    np.testing.assert_allclose(flatten(mean), expected, rtol=0, atol=0.02)


def test_site_refuses_another_compression_than_its_own() -> None:
    site = Site(Terms(SHORT), train)
    for other, text in ((LowRank(1), "T7"), (RandomK(0.5), "T7")):
        with pytest.raises(FaultyServerError, match=text):
            Round(Terms(replace(SHORT, compression=other))).ask(site)
    with pytest.raises(MalformedMessageError, match="kind 38, needed CompressedParameters"):
        Round(Terms(replace(SHORT, compression=None))).ask(site)
    with pytest.raises(MalformedMessageError, match="kind 37, needed WeightedMeanParameters"):
        Round(Terms(SHORT)).ask(Site(TERMS, train))
    with pytest.raises(FaultyServerError, match="clip, weights or noise"):
        Round(Terms(replace(SHORT, bits=8))).ask(site)


OWN_CLIPS = Terms(replace(SHORT, clip={"weight": 0.5, "bias": 0.3}))
OWN_NORMS = Terms(
    SecAgg(threshold=3), DistributedGaussian({"weight": 1.0, "bias": 0.5}, 1e-3, layers=2, minimum_survivors=3)
)


@pytest.mark.parametrize(
    "terms", [OWN_CLIPS, OWN_NORMS, Terms(replace(OWN_CLIPS.aggregator, compression=None))], ids=str
)
def test_sites_clip_each_array_by_itself(terms: Terms) -> None:
    sites = {number: Site(terms, train) for number in range(1, 5)}
    round = Round(terms)
    round.run(sites)
    transform, total = round.transform, round.server.sum
    assert isinstance(transform, PerArrayClipping)
    if isinstance(transform.inner, PrivateSum) and (surplus := transform.inner.surplus_noise((1, 2, 3, 4))):
        for number, site in sites.items():
            surplus.receive(number, site.receive(TOKEN, surplus.request))
        total = surplus.subtract(total)
    mean, update = transform.decode(total, round.server.survivors).mean, train(MODEL, 1)[0]
    expected = flatten(update)
    if isinstance(transform.transform, Compressed):
        maps = transform.transform.maps
        expected = maps.expand(maps.compress(update))
    np.testing.assert_allclose(flatten(mean), expected, rtol=0, atol=0.02)


def test_site_refuses_other_clips_than_its_own() -> None:
    for terms, other in (
        (OWN_CLIPS, replace(OWN_CLIPS.aggregator, clip={"weight": 0.5, "bias": 0.4})),
        (Terms(replace(SHORT, compression=None, clip={"weight": 0.5, "bias": 0.3})), replace(SHORT, compression=None)),
    ):
        with pytest.raises((FaultyServerError, MalformedMessageError), match=r"T8|needed ArrayClipsParameters"):
            Round(Terms(other)).ask(Site(terms, train))
    assert OWN_NORMS.privacy is not None
    norms = replace(OWN_NORMS.privacy, clip_norm={"weight": 1.0, "bias": 0.6})
    with pytest.raises(FaultyServerError, match="T8"):
        Round(replace(OWN_NORMS, privacy=norms)).ask(Site(OWN_NORMS, train))


def test_sites_reveal_surplus_noise_once_and_for_the_survivors_alone() -> None:
    sites = {number: Site(NOISY, train) for number in range(1, 5)}
    round = Round(NOISY)
    round.run(sites)
    surplus = round.transform.surplus_noise(round.server.survivors)  # type: ignore[attr-defined]
    assert surplus.request
    surplus.receive(1, sites[1].receive(TOKEN, surplus.request))
    with pytest.raises(StageError, match="no such session"):
        sites[1].receive(TOKEN, surplus.request)
    with pytest.raises(StageError, match="no such session"):
        sites[2].receive(bytes(31) + b"\1", surplus.request)


CHANGES: dict[str, tuple[Terms, str]] = {
    "wider clip": (Terms(SecAgg(threshold=3, clip=2.0, max_weight=16)), "clip, weights or noise"),
    "larger weight": (Terms(SecAgg(threshold=3, clip=1.0, max_weight=2**20)), "clip, weights or noise"),
    "other bits": (Terms(SecAgg(threshold=3, clip=1.0, max_weight=16, bits=14)), "clip, weights or noise"),
    "higher threshold": (Terms(SecAgg(threshold=4, clip=1.0, max_weight=16)), "has threshold 4, .* need 3"),
    "fewer neighbors": (
        Terms(SecAgg(threshold=2, clip=1.0, max_weight=16, neighbors=2), minimum_cohort=3),
        "has threshold 2, .* need 3",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_site_refuses_other_parameters_before_it_trains(change: str) -> None:
    terms, text = CHANGES[change]
    trained: list[int] = []
    site = Site(TERMS, lambda model, round: trained.append(round) or train(model, round))
    with pytest.raises(FaultyServerError, match=text):
        Round(terms).ask(site)
    assert not trained
    Round().ask(site)  # the refused round was not this site's last one


def test_site_refuses_a_lower_threshold() -> None:
    strict = Site(Terms(SecAgg(threshold=4, clip=1.0, max_weight=16)), train)
    with pytest.raises(FaultyServerError, match=r"C4: the server's session has threshold 3, .* need 4"):
        Round().ask(strict)


@pytest.mark.parametrize(
    ("privacy", "text"),
    [
        (DistributedGaussian(clip_norm=1.0, noise_multiplier=0.5, layers=2, minimum_survivors=3), "T5"),
        (DistributedGaussian(clip_norm=2.0, noise_multiplier=1.0, layers=2, minimum_survivors=3), "T3"),
        (DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, layers=2, minimum_survivors=2), "T4"),
        (DistributedGaussian(clip_norm=1.0, noise_multiplier=2.0, layers=2, minimum_survivors=3), "T3"),
        (CentralGaussian(clip_norm=1.0, noise_multiplier=1.0), "T4"),
    ],
)
def test_site_refuses_other_noise(privacy: Any, text: str) -> None:
    # The session's threshold is that of the site, so what differs is the noise.
    with pytest.raises(FaultyServerError, match=text):
        Round(replace(NOISY, privacy=privacy)).ask(Site(NOISY, train))


def test_site_refuses_a_cohort_smaller_than_its_minimum() -> None:
    trained: list[int] = []
    site = Site(replace(TERMS, minimum_cohort=5), lambda model, round: trained.append(round) or train(model, round))
    with pytest.raises(FaultyServerError, match="has 4 clients, this client's policy needs 5"):
        Round().ask(site)
    assert not trained
    with pytest.raises(ConfigError, match="the sites would refuse this round"):
        Round(replace(TERMS, minimum_cohort=5))


def test_sampled_cohort_of_a_size_that_is_not_accounted_has_no_round() -> None:
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, population=400, sampling_rate=0.25)
    sizes = []
    for minimum in (2, 60):
        terms = Terms(SecAgg(), privacy, minimum_cohort=minimum)
        transform, _ = terms.prepare(MODEL, 100, 1)
        least, _ = transform.cohorts  # type: ignore[attr-defined]
        sizes.append(least)
        with pytest.raises(TooFewSurvivorsError, match=f"needed {least} to"):
            terms.prepare(MODEL, least - 1, 1)
    assert sizes[1] == 60, "the accountant knows which cohorts the sites refuse"


def test_site_does_not_unmask_fewer_than_its_minimum() -> None:
    terms = replace(TERMS, minimum_cohort=4)
    sites = {number: Site(terms, train) for number in range(1, 5)}
    with pytest.raises((FaultyServerError, TooFewSurvivorsError)):
        Round(terms).run(sites, gone_after=2)


def test_place_of_a_value_that_is_not_finite_stays_at_the_site(caplog: pytest.LogCaptureFixture) -> None:
    def diverged(model: Any, round: int) -> Any:
        update, weight = train(model, round)
        update["weight"][1, 1] = np.nan
        return update, weight

    with pytest.raises(EncodingError, match="own log says why") as caught:
        Round().ask(Site(TERMS, diverged))
    assert "not finite" not in "".join(traceback.format_exception(caught.value)) and "not finite" in caplog.text


def test_site_refuses_an_update_of_another_length_than_the_model(caplog: pytest.LogCaptureFixture) -> None:
    def longer(model: Any, round: int) -> Any:
        return {"weight": np.zeros((4, 2)), "bias": np.zeros(2)}, 4

    with pytest.raises(EncodingError, match="own log says why"):
        Round().ask(Site(TERMS, longer))
    assert "shape (4, 2)" in caplog.text


def test_site_refuses_the_length_of_another_model() -> None:
    other = {"weight": np.zeros((4, 2)), "bias": np.zeros(2, np.float32)}
    with pytest.raises(FaultyServerError, match="T2"):
        Round(model=other).ask(Site(TERMS, train), model=MODEL)


def test_site_refuses_a_model_that_the_others_did_not_get() -> None:
    other = {**MODEL, "bias": np.ones(2, np.float32)}
    with pytest.raises(FaultyServerError, match="has model_hash"):
        Round().ask(Site(TERMS, train), model=other)


def test_site_answers_no_round_twice_and_none_of_the_past() -> None:
    site = Site(TERMS, train)
    Round(round=2).ask(site)
    for round in (2, 1):
        with pytest.raises(StageError, match=f"round {round} is not after round 2"):
            Round(round=round).ask(site)
    Round(round=3).ask(site)


def test_site_that_trained_too_long_does_not_join_its_old_round() -> None:
    def interrupted(model: Any, round: int) -> Any:
        if round == 1:
            Round(round=2).ask(site)
        return train(model, round)

    site = Site(TERMS, interrupted)
    with pytest.raises(StageError, match="round 2 began while this site trained for round 1"):
        Round(round=1).ask(site)


def test_later_round_that_begins_during_an_answer_keeps_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    sites = {number: Site(TERMS, train) for number in range(1, 5)}
    first, answer = Round(round=1), secagg.Client.receive
    for client_id, site in sites.items():
        first.server.receive(client_id, first.ask(site, client_id))
    outbox = first.server.close_stage()

    def interrupted(client: secagg.Client, data: bytes) -> bytes:
        monkeypatch.setattr(secagg.Client, "receive", answer)
        Round(round=2).ask(sites[1])
        return answer(client, data)

    monkeypatch.setattr(secagg.Client, "receive", interrupted)
    sites[1].receive(TOKEN, outbox[1])
    assert sites[1]._session is not None
    assert sites[1]._session.round == 2


def test_failed_request_ends_the_session_of_a_site() -> None:
    site = Site(TERMS, train)
    Round().ask(site)
    with pytest.raises(MalformedMessageError):
        site.receive(TOKEN, b"\0")
    with pytest.raises(StageError, match="no such session"):
        site.receive(TOKEN, b"\0")


def test_abort_of_the_server_ends_the_session_of_a_site() -> None:
    site, round = Site(TERMS, train), Round()
    round.server.receive(1, round.ask(site))
    assert site.receive(TOKEN, round.server.abort()[1]) == b""
    with pytest.raises(StageError, match="no such session"):
        site.receive(TOKEN, b"\0")


def test_error_in_training_tells_the_server_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def failing(model: Any, round: int) -> Any:
        raise KeyError(SECRET)

    with pytest.raises(SecFedError, match="its own log has the error") as caught:
        Round().ask(Site(TERMS, failing))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET in caplog.text


@pytest.mark.parametrize("result", [None, (MODEL,), (MODEL, 3, 4)])
def test_training_that_returns_no_pair_fails(result: Any) -> None:
    with pytest.raises(SecFedError, match="the training of round 1 failed"):
        Round().ask(Site(TERMS, lambda model, round: result))


@pytest.mark.parametrize("weight", [0, 17, 1.5, float("nan")])
def test_weight_that_does_not_fit_is_refused_and_not_told(weight: Any) -> None:
    with pytest.raises(EncodingError) as caught:
        Round().ask(Site(TERMS, lambda model, round: (train(model, round)[0], weight)))
    assert "17" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Terms(Paillier(object())), "needed a secfed.SecAgg"),  # type: ignore[arg-type]
        (lambda: Terms(SecAgg(threshold=3)), "max_weight is None"),
        (lambda: Terms(SecAgg(threshold=2, neighbors=2, max_weight=4)), "counts a site's neighbors"),
        (lambda: Terms(SecAgg(max_weight=4), minimum_cohort=2.5), "minimum_cohort"),  # type: ignore[arg-type]
        (lambda: Terms(SecAgg(max_weight=4)), "could name two sites the cohort"),
        (lambda: Terms(SecAgg(threshold=3, max_weight=4, adversary="malicious_server")), "identity keys"),
        (lambda: Terms(SecAgg(threshold=3, max_weight=4, rounding_seed=1)), "rounding_seed is for simulations"),
        (lambda: Terms(SecAgg(threshold=3, max_weight=4, progress=print)), "progress is for simulations"),
        (
            lambda: Terms(SecAgg(threshold=3), CentralGaussian(1.0, 1.0, adaptive=AdaptiveClipping())),
            "needed a fixed clip_norm",
        ),
    ],
)
def test_terms_that_say_too_little_are_refused(make: Callable[[], Terms], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
