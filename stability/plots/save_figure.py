"""How a figure and its data are written."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import xarray
from matplotlib.figure import Figure

from stability.foundation.arguments import door
from stability.foundation.files import make_folder, write_atomically
from stability.plots.style import STYLE


@door
def save(figure: Figure, data: xarray.Dataset | xarray.DataTree, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF with its data as netCDF beside it, each whole or not at all.

    Args:
        figure: what to write.
        data: the data that made it.
        folder: where, made if it is not there.
        name: the name of the three files.

    Returns:
        The paths written.

    Raises:
        OSError: for a folder that cannot be written to, or a full disk; what was there before is unchanged.
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is a {type(figure).__name__}: expected a matplotlib Figure, as st.plots returns")
    if not isinstance(data, xarray.Dataset | xarray.DataTree):
        raise TypeError(
            f"data is a {type(data).__name__}: expected an xarray Dataset, as to_dataset() gives, or DataTree"
        )
    if not name or Path(name).name != name:
        raise ValueError(f"name is {name!r}: expected the name of the files, without their folder and suffix")
    folder = make_folder(folder)
    # No date inside, so that the same data give the same files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}}

    def image(path: Path) -> None:
        kind = path.suffix.removeprefix(".")
        with mpl.rc_context(STYLE):
            figure.savefig(path, format=kind, metadata=metadata[kind])

    def table(path: Path) -> None:
        # Into memory first: a full disk under its own file ends HDF5, and the process with it.
        held = io.BytesIO()
        groups = data.to_dict() if isinstance(data, xarray.DataTree) else {"/": data}
        packed = {"zlib": True, "shuffle": True}
        encoding = {group: dict.fromkeys(part.data_vars, packed) for group, part in groups.items()}
        if isinstance(data, xarray.DataTree):
            data.to_netcdf(held, engine="h5netcdf", encoding=encoding)
        else:
            data.to_netcdf(held, engine="h5netcdf", encoding=encoding["/"])
        path.write_bytes(held.getvalue())

    writers = {".png": image, ".pdf": image, ".nc": table}
    return [write_atomically(folder / f"{name}{suffix}", write) for suffix, write in writers.items()]
