"""Events refuse what they cannot hold, and say so in their own words when they are read from JSON too."""

import pytest

from secfed import dp
from secfed.dp import events
from secfed.errors import ConfigError


@pytest.mark.parametrize(
    "inner",
    [
        dp.PoissonSampled(0.1, dp.Gaussian(1.0)),
        dp.FixedSizeSampled(1, 10, dp.Gaussian(1.0)),
        dp.ZeroConcentrated(0.1),
        1.0,
    ],
)
def test_only_a_single_release_can_be_sampled(inner: dp.Gaussian) -> None:
    for sample in (lambda: dp.PoissonSampled(0.1, inner), lambda: dp.FixedSizeSampled(1, 10, inner)):
        with pytest.raises(ConfigError, match="needs one release"):
            sample()


def test_error_of_a_part_of_an_event_is_the_same_from_json() -> None:
    described = events.to_json(dp.PoissonSampled(0.1, dp.Gaussian(1.0))) | {"sampling_rate": 2.0}
    for parameters in (described, {"kind": "Composed", "events": [[described, 3]]}):
        with pytest.raises(ConfigError, match=r"^sampling_rate 2\.0 must be above 0 and at most 1$"):
            events.from_json(parameters)
