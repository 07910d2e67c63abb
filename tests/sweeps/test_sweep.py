"""Cells are computed once, kept, and found again; what goes wrong with one is told and harms no other."""

import itertools
import json
import os
import resource
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
import xarray

import stability as st
from stability.foundation.threads import torch_on_one_thread
from stability.sweeps.cells import cell_name, cells_of, named_cells
from stability.sweeps.computing import ONE_THREAD, compute
from stability.sweeps.store import Store, existing_store
from tests.sweeps.cell_functions import X, line, odd

GRID = {"slope": [1, 2, 3], "shift": [0.0, 0.5]}


def run(function, grid, store, **given):
    return st.sweep(function, grid, store, workers=0, progress=False, **given)


def files(store):
    return sorted(path.name for path in Path(store).glob("cells/*/*.nc"))


def times(store):
    return {path.name: path.stat().st_mtime_ns for path in Path(store).glob("cells/*/*.nc")}


def test_the_dataset_is_that_of_a_loop(tmp_path):
    found = run(line, GRID, tmp_path).dataset
    assert found.y.dims == ("slope", "shift", "x")
    assert found.y.chunks[:2] == ((1, 1, 1), (1, 1)), "cells are read one at a time"
    expected = np.array([[[a * x + b for x in X] for b in GRID["shift"]] for a in GRID["slope"]])
    np.testing.assert_array_equal(found.y.values, expected)
    assert found["count"].dtype == np.int64
    assert (found.x.values == X).all()
    assert found.attrs == {"unit": "1"}


def test_nothing_is_computed_again_and_a_grid_may_grow_shrink_and_be_reordered(tmp_path):
    run(line, GRID, tmp_path)
    before = times(tmp_path)
    larger = {"shift": [0.5, 0.25, 0.0], "slope": [4, 1, 2, 3]}
    assert run(line, larger, tmp_path).dataset.y.sel(slope=4, shift=0.25).values[-1] == 4.25
    after = times(tmp_path)
    assert len(after) == 12
    assert {name: after[name] for name in before} == before
    smaller = run(line, {"slope": [2], "shift": [0.5]}, tmp_path).dataset
    assert smaller.y.shape == (1, 1, 5)
    assert times(tmp_path) == after


def test_a_list_of_cells_has_one_dimension(tmp_path):
    cells = [{"slope": 1, "shift": 0.0}, {"slope": 5, "shift": 0.5}]
    found = run(line, cells, tmp_path).dataset
    assert found.y.dims == ("cell", "x")
    assert found.slope.values.tolist() == [1, 5]
    assert st.open_sweep(tmp_path).dataset.y.values[1, -1] == 5.5


def test_what_goes_wrong_is_kept_with_its_cell_and_the_others_go_on(tmp_path):
    grid = {"slope": [0, 1, 2, 3, 4], "shift": [0.0]}
    found = run(odd, grid, tmp_path)
    errors = {one.cell["slope"]: one.error for one in found.failed}
    assert "slope=1, shift=0.0 gives a float: expected an xarray Dataset" in errors[1]
    assert "'slope', which the grid has" in errors[2]
    assert "does not fit the first one" in errors[3]
    assert errors[4] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in found.failed[-1].traceback
    assert [cell["slope"] for cell in found.missing] == [1, 2, 3, 4]
    values = found.dataset
    assert np.isnan(values.y.values[1:]).all()
    assert (values.y.values[0] == 0).all()
    assert values["count"].dtype == np.float64
    assert "1 of 5 cells are there, 4 have failed" in repr(found)


def test_what_has_failed_is_computed_again_when_asked(tmp_path):
    attempts = itertools.count()

    def later(slope):
        if next(attempts) == 0:
            raise RuntimeError("not yet")
        return xarray.Dataset({"y": float(slope)})

    assert len(run(later, {"slope": [1]}, tmp_path).failed) == 1
    assert len(run(later, {"slope": [1]}, tmp_path).failed) == 1
    assert next(attempts) == 1
    assert run(later, {"slope": [1]}, tmp_path, retry_failed=True).failed == []
    assert st.open_sweep(tmp_path).missing == []


def test_a_damaged_file_is_named_and_computed_again_when_asked(tmp_path):
    found = run(line, GRID, tmp_path)
    path = Path(tmp_path) / "cells" / files(tmp_path)[0][:2] / files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=f"{path.name} of the cell slope=.* is damaged.*replace_damaged=True"):
        found.dataset.y.values  # noqa: B018
    before = times(tmp_path)
    again = run(line, GRID, tmp_path, replace_damaged=True)
    assert np.isfinite(again.dataset.y.values).all()
    assert sum(before[name] != moment for name, moment in times(tmp_path).items()) == 1


def test_a_file_of_another_cell_is_not_taken_for_this_one(tmp_path):
    found = run(line, GRID, tmp_path)
    one, other = (Path(tmp_path) / "cells" / name[:2] / name for name in files(tmp_path)[:2])
    one.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="it is of another cell"):
        found.dataset.y.values  # noqa: B018


def test_a_store_of_another_function_or_version_is_refused(tmp_path):
    run(line, GRID, tmp_path)
    with pytest.raises(ValueError, match=r"is the store of 'tests.sweeps.cell_functions.line'"):
        run(odd, GRID, tmp_path)
    with pytest.raises(ValueError, match=r"version ''.*version '2'"):
        run(line, GRID, tmp_path, version="2")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="no store of a sweep"):
        run(line, GRID, other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="no store of a sweep"):
        st.open_sweep(other)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write into the folder"):
        run(line, GRID, tmp_path / "file" / "store")


def test_a_full_disk_ends_the_sweep_and_keeps_what_was_computed(tmp_path):
    run(line, {"slope": [1], "shift": [0.0]}, tmp_path)
    size = max(path.stat().st_size for path in tmp_path.glob("cells/*/*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))  # no file can be written whole
    try:
        with pytest.raises(OSError, match=r"cannot write .*what was computed before is kept"):
            run(line, GRID, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(files(tmp_path)) == 1
    assert list(tmp_path.glob("temporary/*")) == []
    assert run(line, GRID, tmp_path).missing == []


def test_two_sweeps_of_one_store_do_no_harm(tmp_path):
    def both(slope, shift):
        time.sleep(0.01)
        return line(slope, shift)

    grid = {"slope": list(range(8)), "shift": [0.0, 1.0]}
    threads = [threading.Thread(target=run, args=(both, grid, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = st.open_sweep(tmp_path)
    assert found.missing == []
    assert len(files(tmp_path)) == 16
    assert list(tmp_path.glob("temporary/*")) == []
    assert (found.dataset.y.values[:, 1, 0] == 1.0).all()


def test_what_a_killed_process_has_left_is_cleared(tmp_path):
    run(line, GRID, tmp_path)
    import platform

    left = tmp_path / "temporary" / f"{platform.node()}-{2**22 + 5}-abc"
    running = tmp_path / "temporary" / f"{platform.node()}-1-abc"
    for path in (left, running):
        path.write_bytes(b"part")
    run(line, GRID, tmp_path)
    assert not left.exists()
    assert running.exists(), "it may be that of another sweep"


@pytest.mark.parametrize(
    ("function", "grid", "message"),
    [
        (line, {"slope": [1]}, "does not take the names of the grid"),
        (line, {"slope": [1], "shift": [1], "width": [2]}, "does not take the names of the grid"),
        (3, GRID, "function is 3"),
    ],
)
def test_a_function_that_does_not_take_the_cells_is_refused(tmp_path, function, grid, message):
    with pytest.raises(TypeError, match=message):
        run(function, grid, tmp_path)


def test_one_cell_is_given_as_it_was(tmp_path):
    found = run(odd, {"slope": [0, 4], "shift": [0.5]}, tmp_path)
    assert found.cell(shift=0.5, slope=0).identical(line(0, 0.5))
    with pytest.raises(KeyError, match=r"slope=4, shift=0\.5 is not there"):
        found.cell(slope=4, shift=0.5)
    with pytest.raises(KeyError, match="the grid has no cell slope=1"):
        found.cell(slope=1, shift=0.5)


def test_no_cell_no_dataset(tmp_path):
    found = run(odd, {"slope": [4], "shift": [0.0]}, tmp_path)
    with pytest.raises(ValueError, match="no cell of the grid"):
        found.dataset  # noqa: B018


def test_the_grid_of_the_last_sweep_is_written_beside_the_cells(tmp_path):
    run(line, GRID, tmp_path)
    assert json.loads((tmp_path / "grid.json").read_text()) == GRID
    (tmp_path / "grid.json").unlink()
    with pytest.raises(ValueError, match="give grid="):
        st.open_sweep(tmp_path)
    assert st.open_sweep(tmp_path, {"slope": [1], "shift": [0.0]}).dataset.sizes["slope"] == 1


def test_a_cell_may_change_the_working_directory(tmp_path, monkeypatch):
    def moves(n):
        os.chdir("/")
        return xarray.Dataset({"y": n})

    monkeypatch.chdir(tmp_path)
    found = run(moves, {"n": [1, 2]}, "store")
    assert found.missing == []
    assert found.store == tmp_path / "store"
    assert len(files(tmp_path / "store")) == 2


def test_a_worker_that_does_not_see_the_store_makes_none(tmp_path):
    outcome = compute(line, [{"slope": 1, "shift": 0.0}], Store(tmp_path / "store", "f", ""))
    assert "give a folder that all workers see" in outcome.error
    assert not (tmp_path / "store").exists()


@pytest.fixture
def threads_come_back(monkeypatch):
    """Put back what a worker keeps: its libraries use one thread."""
    for name in ONE_THREAD:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)
    threads = numba.get_num_threads()
    with torch_on_one_thread():
        yield
    numba.set_num_threads(threads)


@pytest.mark.usefixtures("threads_come_back")
def test_a_worker_that_has_threads_of_numba_compiles_on(tmp_path):
    run(lambda n: line(n, 0), {"n": [1]}, tmp_path)
    threads = numba.get_num_threads()  # they are launched

    def compiles(n):
        assert numba.get_num_threads() == 1
        return line(numba.njit(lambda k: k + 1)(n), 0)

    outcome = compute(compiles, [{"n": 2}], existing_store(tmp_path), one_thread=True)
    assert outcome.done == 1, "numba refuses another NUMBA_NUM_THREADS than it has"
    assert threads <= numba.config.NUMBA_NUM_THREADS


def test_the_environment_of_the_process_that_sweeps_is_as_it_was(tmp_path):
    before = dict(os.environ)
    assert st.sweep(line, {"slope": [1], "shift": [0.0]}, tmp_path, workers=1, progress=False).failed == []
    assert dict(os.environ) == before, "dask writes that of its workers into it"


def test_workers_of_a_client_are_its_own(tmp_path):
    with pytest.raises(ValueError, match="workers=0 was given with client="):
        run(line, GRID, tmp_path, client="tcp://127.0.0.1:1")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
@pytest.mark.usefixtures("threads_come_back")
def test_what_ends_a_process_is_an_error_of_the_cell_in_a_worker(tmp_path, error):
    def ends(n):
        raise error if n else ValueError

    run(lambda n: line(n, 0), {"n": [1]}, tmp_path)
    outcome = compute(ends, [{"n": 2}, {"n": 3}], existing_store(tmp_path), one_thread=True)
    assert (outcome.done, outcome.failed) == (0, 2)
    with pytest.raises(type(error)):
        compute(ends, [{"n": 4}], existing_store(tmp_path), one_thread=False)


def test_what_is_not_kept_does_not_bind_the_others(tmp_path):
    def mended(n, good=False):
        return xarray.Dataset({"y": ("x", [n])} if good else {"y": ("x", [{}] * 9)})

    assert "netCDF does not hold" in run(mended, {"n": [1]}, tmp_path).failed[0].error
    mended.__defaults__ = (True,)
    with pytest.warns(UserWarning, match="the code of"):
        found = run(mended, {"n": [1]}, tmp_path, retry_failed=True)
    assert found.dataset.y.shape == (1, 1)


def test_a_damaged_record_of_a_failure_is_told(tmp_path):
    found = run(odd, {"slope": [0, 4], "shift": [0.5]}, tmp_path)
    (path,) = tmp_path.glob("failed/*/*.json")
    path.write_text("{")
    assert [dict(one.cell) for one in found.failed] == [{"slope": 4, "shift": 0.5}]
    assert f"{path.name} that tells why is damaged" in repr(found)


def test_a_list_of_cells_with_the_name_cell_is_refused(tmp_path):
    found = run(lambda n: xarray.Dataset({"y": ("cell", [n, n])}), [{"n": 1}, {"n": 2}], tmp_path)
    with pytest.raises(ValueError, match='the cells have the name "cell"'):
        found.dataset  # noqa: B018
    assert found.cell(n=np.int64(2)).y.values.tolist() == [2, 2]


@pytest.mark.parametrize("values", [["none", 1], [True, 1], ["a\0", "a"], [2**60 + 1, 0.5]], ids=str)
def test_values_along_a_dimension_are_those_of_the_grid(tmp_path, values):
    def typed(n):
        return xarray.Dataset({"y": type(n).__name__})

    data = run(typed, {"n": values}, tmp_path / "grid").dataset
    found = data.n.values.tolist()
    assert list(zip(found, map(type, found), strict=True)) == list(zip(values, map(type, values), strict=True))
    cells = run(typed, [{"n": value} for value in values], tmp_path / "list").dataset
    assert cells.n.values.tolist() == values


def test_a_whole_number_that_float64_does_not_hold_is_no_neighbour_of_nan(tmp_path):
    found = run(lambda n: xarray.Dataset({"y": ("x", [2**53 + n] * n)}), {"n": [1, 2]}, tmp_path)
    assert found.dataset.y[1].values.tolist() == [2**53 + 2] * 2
    with pytest.raises(ValueError, match="y of the cell n=1 is 9007199254740993"):
        found.dataset.y.values  # noqa: B018


def test_a_grid_of_a_million_is_named_soon(tmp_path):
    run(line, {"slope": [0], "shift": [0]}, tmp_path)
    found = st.open_sweep(tmp_path, {"slope": range(1000), "shift": range(100)})
    began = time.process_time()
    assert found.cell(slope=0, shift=0).y.values.tolist() == [0] * 5
    assert time.process_time() - began < 0.5, "it does not look through the grid"
    names = {name for name, _ in named_cells(found.grid, "f", "v")}
    assert names == {cell_name("f", "v", cell) for cell in cells_of(found.grid)}
