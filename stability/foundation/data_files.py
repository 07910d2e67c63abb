"""How data are stored: netCDF that is whole or not there."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray

from stability.foundation.arguments import door
from stability.foundation.files import write_atomically

#: dask's settings are those of the process.
_SETTINGS = threading.RLock()


@door
def write_data(data: xarray.Dataset | xarray.DataTree, path: str | Path) -> Path:
    """Write data as compressed netCDF, whole or not at all, and return the path.

    Raises:
        OSError: for a folder that is not there or cannot be written to, or a full disk; what was there is unchanged.

    >>> import tempfile, stability as st
    >>> folder = tempfile.mkdtemp()
    >>> path = st.plots.write_data(xarray.Dataset({"y": ("x", [1.0, 2.0])}), f"{folder}/data.nc")
    >>> st.plots.read_data(path).y.values.tolist()
    [1.0, 2.0]
    """
    check_data(data)
    content = packed(data)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


@door
def read_data(path: str | Path) -> xarray.Dataset | xarray.DataTree:
    """Return what `write_data` wrote, all in memory: a DataTree where it has groups.

    Raises:
        OSError: for a file that is not there or cannot be read.
        ValueError: for one that is cut short, damaged or no netCDF.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        return unpacked(content)
    except Exception as error:  # HDF5 tells of a damaged file in many ways
        raise ValueError(f"{path} is no whole netCDF file: {error}") from None


def check_data(data: object) -> None:
    """Raise TypeError for what is no dataset."""
    if not isinstance(data, xarray.Dataset | xarray.DataTree):
        raise TypeError(
            f"data is a {type(data).__name__}: expected an xarray Dataset, as to_dataset() gives, or DataTree"
        )


def packed(data: xarray.Dataset | xarray.DataTree) -> bytes:
    """Return the content of the file."""
    # Into memory first: a full disk under its own file ends HDF5, and the process with it.
    held = io.BytesIO()
    data = data.drop_encoding() if isinstance(data, xarray.Dataset) else data.map_over_datasets(_without_encoding)
    groups = data.to_dict() if isinstance(data, xarray.DataTree) else {"/": data}
    for part in groups.values():
        _check_attributes(part)
    settings = {"zlib": True, "shuffle": True}
    encoding = {group: dict.fromkeys(part.data_vars, settings) for group, part in groups.items()}
    with _locked_here():
        if isinstance(data, xarray.DataTree):
            data.to_netcdf(held, engine="h5netcdf", encoding=encoding)
        else:
            data.to_netcdf(held, engine="h5netcdf", encoding=encoding["/"])
    return held.getvalue()


@contextmanager
def _locked_here() -> Iterator[None]:
    """Let xarray lock its file in this process, and not across a cluster, whose code takes seconds to load."""
    try:
        import dask
    except ImportError:
        yield
        return
    with _SETTINGS, dask.config.set(scheduler="synchronous"):
        yield


def _without_encoding(data: xarray.Dataset) -> xarray.Dataset:
    return data.drop_encoding()  # that of a file it was read from may round, as int8 does


def _check_attributes(data: xarray.Dataset) -> None:
    """Raise ValueError for attributes by which netCDF reads other numbers than were written, as by a scale_factor."""
    for name, variable in data.variables.items():
        if not variable.attrs:
            continue
        read = xarray.conventions.decode_cf_variable(name, variable.copy(deep=False))
        changed = (set(variable.attrs) - set(read.attrs)) | ({"coordinates"} & set(variable.attrs))
        if changed or read.dtype != variable.dtype:
            shown = ", ".join(sorted(map(repr, changed or variable.attrs)))
            raise ValueError(f"{name} has the attribute {shown}, by which netCDF reads something else: rename it")


def unpacked(content: bytes) -> xarray.Dataset | xarray.DataTree:
    """Return the data of such a content."""
    with _locked_here(), xarray.open_datatree(io.BytesIO(content), engine="h5netcdf") as tree:
        for group in tree.subtree:
            for variable in group.variables.values():  # DataTree.load leaves out those that are named as a group
                variable.load()
    return tree if tree.children else tree.to_dataset()
