"""Small networks over planes against polygons clipped in rational numbers."""

import pytest

from .random_slices import outcome


def outcomes(seeds):
    found = {seed: outcome(seed) for seed in seeds}
    wrong = {seed: what for seed, what in found.items() if what.startswith(("wrong", "refused"))}
    assert wrong == {}
    return list(found.values())


def test_no_region_is_wrong():
    found = outcomes(range(60))
    assert found.count("right") > 50


@pytest.mark.slow
def test_no_region_of_a_thousand_networks_is_wrong():
    found = outcomes(range(1000, 2000))
    assert found.count("right") > 900
