"""Cells may be of several sizes: they are joined by their coordinates, or by their numbers."""

import itertools

import numpy as np
import pytest
import xarray

import stability as st
from stability.sweeps.shapes import put_together, shape_of


def run(function, grid, store, **given):
    return st.sweep(function, grid, store, workers=0, progress=False, **given).dataset


def layered(depth):
    """As a network gives: numbers by layer, at layers that are named, by methods that not all depths have."""
    ways = ["Adam"] if depth == 3 else ["growth", "Adam"]
    return xarray.Dataset(
        {
            "log": (("layer", "way"), np.arange(2.0 * depth).reshape(depth, 2)[:, : len(ways)]),
            "count": ("layer", np.arange(depth)),
            "even": ("x", [1, 2]),
        },
        {"way": ways},
    )


def oracle(depths, name, dim):
    """By xarray's own outer join."""
    cells = [layered(depth)[[name]].assign_coords({dim: range(depth)}) for depth in depths]
    return xarray.concat(cells, xarray.IndexVariable("depth", list(depths)), join="outer")[name]


@pytest.mark.parametrize("depths", list(itertools.permutations((2, 3, 5))), ids=str)
def test_what_is_shorter_is_filled_with_nan_in_whatever_order_cells_come(tmp_path, depths):
    found = run(layered, {"depth": depths}, tmp_path)
    assert found.log.dims == ("depth", "layer", "way")
    assert found.way.values.tolist() == ["growth", "Adam"]
    np.testing.assert_array_equal(found.log.values, oracle(depths, "log", "layer").sel(way=["growth", "Adam"]).values)
    np.testing.assert_array_equal(found["count"].values, oracle(depths, "count", "layer").values)
    assert found["count"].dtype == np.float64
    assert found.even.dtype == np.int64
    assert found.even.values.tolist() == [[1, 2]] * 3


def test_numbers_along_a_dimension_are_joined_by_size(tmp_path):
    def at(n):
        return xarray.Dataset({"y": ("t", np.full(n, n))}, {"t": np.arange(n, 0, -1) * 10})

    found = run(at, {"n": [1, 3]}, tmp_path)
    assert found.t.values.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(found.y.values, [[1, np.nan, np.nan], [3, 3, 3]])


def test_types_are_those_that_hold_all(tmp_path):
    def typed(n):
        return xarray.Dataset({"y": ("x", np.arange(n, dtype=np.float32 if n == 2 else np.float64) / 3)})

    found = run(typed, {"n": [2, 3]}, tmp_path)
    assert found.y.dtype == np.float64
    np.testing.assert_array_equal(found.y.values[0], [0, np.float32(1) / np.float32(3), np.nan])


def test_texts_keep_their_length(tmp_path):
    def named(n):
        return xarray.Dataset({"word": ("x", ["a" * n] * n)})

    found = run(named, {"n": [1, 2]}, tmp_path).word.values
    assert found[1].tolist() == ["aa", "aa"]
    assert found[0, 0] == "a"


def test_coordinates_that_cannot_be_joined_must_be_the_same(tmp_path):
    def doubled(n):
        return xarray.Dataset({"y": ("x", [1.0, 2.0])}, {"x": [1, 1] if n == 1 else [1, 2]})

    failed = st.sweep(doubled, {"n": [1, 2]}, tmp_path, workers=0, progress=False).failed
    assert [dict(one.cell) for one in failed] == [{"n": 2}]
    assert "does not fit the first one" in failed[0].error


@pytest.mark.parametrize("other", [["a", "b"], [True, False]], ids=str)
def test_coordinates_of_two_kinds_do_not_fit(tmp_path, other):
    def kinds(n):
        return xarray.Dataset({"y": ("x", [1.0, 2.0])}, {"x": [1, 0] if n == 1 else other})

    failed = st.sweep(kinds, {"n": [1, 2]}, tmp_path, workers=0, progress=False).failed
    assert "coordinates x, the first one number coordinates x" in failed[0].error


@pytest.mark.parametrize(
    "attributes",
    [{"_FillValue": 1.0}, {"scale_factor": 2.0}, {"units": "days since 2000-01-01"}, {"coordinates": "z"}],
    ids=str,
)
def test_attributes_by_which_other_numbers_are_read_are_refused(tmp_path, attributes):
    def marked(n):
        return xarray.Dataset({"y": ("x", [1.0, n], attributes), "z": ("x", [3.0, 4.0])})

    (failed,) = st.sweep(marked, {"n": [1]}, tmp_path, workers=0, progress=False).failed
    assert f"y has the attribute {next(iter(attributes))!r}" in failed.error


def test_the_encoding_of_another_file_rounds_no_coordinate(tmp_path):
    def read(n):
        data = xarray.Dataset({"y": ("x", [1.0, n], {"units": "m"})}, {"x": [0.5, 1.75]})
        data.variables["x"].encoding["dtype"] = "int8"
        return data

    found = st.sweep(read, {"n": [1]}, tmp_path, workers=0, progress=False)
    assert found.cell(n=1).x.values.tolist() == [0.5, 1.75]


def test_one_shape_alone_is_even():
    one = shape_of(layered(5))
    assert put_together([one, one]).uneven == ()
    assert put_together([one, shape_of(layered(3))]).uneven == ("layer", "way")
