"""A cell has one name, whatever the grid it stands in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stability.sweeps.cells import axes_of, cell_name, cells_of, count_cells

VALUES = some.one_of(
    some.integers(-(2**60), 2**60),
    some.text(max_size=5),
    some.booleans(),
    some.floats(allow_nan=False, allow_infinity=False),
)
NAMES = some.sampled_from(["depth", "width", "seed"])
AXES = some.dictionaries(NAMES, some.lists(VALUES, min_size=1, max_size=4, unique_by=json.dumps), min_size=1)


@given(AXES)
def test_a_grid_has_all_combinations_and_each_has_a_name_of_its_own(axes):
    cells = list(cells_of(axes_of(axes)))
    assert len(cells) == count_cells(axes_of(axes)) == np.prod([len(v) for v in axes.values()])
    assert len({cell_name("f", "", cell) for cell in cells}) == len(cells)
    assert cells == list(cells_of(axes_of(cells)))


@given(AXES, some.randoms(use_true_random=False))
def test_order_and_size_of_a_grid_do_not_change_a_name(axes, random):
    def names(grid):
        return {cell_name("f", "1", cell) for cell in cells_of(axes_of(grid))}

    shuffled = {name: random.sample(axes[name], len(axes[name])) for name in random.sample(list(axes), len(axes))}
    assert names(shuffled) == names(axes)
    shorter = {name: values[: random.randint(1, len(values))] for name, values in axes.items()}
    assert names(shorter) <= names(axes)


def test_numbers_of_numpy_and_torch_are_plain_numbers():
    import torch

    plain = axes_of({"a": [1, 2], "b": [0.5]})
    assert axes_of({"a": np.arange(1, 3), "b": torch.tensor([0.5])}) == plain
    assert all(type(value) is int for value in axes_of({"a": np.arange(3)})["a"])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "empty"),
        ([], "empty"),
        ({"a": []}, "no values of a"),
        ({"a": 3}, "expected a sequence"),
        ({"a": "abc"}, "expected a sequence"),
        ({"a b": [1]}, "'a b'"),
        ({"a": [1, 1]}, "twice"),
        ([{"a": 1}, {"a": 1}], "twice"),
        ({"a": [float("nan")]}, "a = nan"),
        ({"a": [None]}, "a = None"),
        ({"a": [(1, 2)]}, r"a = \(1, 2\)"),
        ([{"a": 1}, {"b": 1}], "different names"),
        ([3], "a cell of the grid is a int"),
        ("a", "grid is a str"),
        (3, "grid is a int"),
    ],
)
def test_what_is_no_grid_is_refused(grid, message):
    with pytest.raises((TypeError, ValueError), match=message):
        axes_of(grid)
