"""Small networks over planes against polygons clipped in rational numbers."""

import pytest

from .random_slices import Network, Ordered, outcome


def outcomes(seeds, network=Network):
    found = {seed: outcome(seed, network) for seed in seeds}
    wrong = {seed: what for seed, what in found.items() if what.startswith(("wrong", "refused"))}
    assert wrong == {}
    return list(found.values())


def test_no_region_is_wrong():
    found = outcomes(range(60))
    assert found.count("right") > 50


def test_no_region_of_a_network_that_sorts_is_wrong():
    found = outcomes(range(40), Ordered)
    assert found.count("right") > 35


@pytest.mark.slow
def test_no_region_of_hundreds_of_networks_that_sort_is_wrong():
    found = outcomes(range(1000, 1400), Ordered)
    assert found.count("right") > 360


@pytest.mark.slow
def test_no_region_of_a_thousand_networks_is_wrong():
    found = outcomes(range(1000, 2000))
    assert found.count("right") > 900
