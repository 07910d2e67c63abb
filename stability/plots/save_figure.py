"""How a figure and its data are written."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stability.foundation.arguments import door
from stability.foundation.data_files import check_data, packed
from stability.foundation.files import make_folder, write_atomically
from stability.plots.style import STYLE

#: So many marks are pixels in a PDF, which would be slow to open and to print otherwise.
MANY_MARKS = 1000


@door
def save(figure: Figure, data: xarray.Dataset | xarray.DataTree | None, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF with its data as netCDF beside it, each whole or not at all.

    Clouds of more than 1000 marks are pixels in the PDF.

    Args:
        figure: what to write.
        data: the data that made it; None for a figure of data that are stored elsewhere.
        folder: where, made if it is not there.
        name: the name of the three files.

    Returns:
        The paths written.

    Raises:
        OSError: for a folder that cannot be written to, or a full disk; what was there before is unchanged.
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure is a {type(figure).__name__}: expected a matplotlib Figure, as st.plots returns")
    if data is not None:
        check_data(data)
    if not name or Path(name).name != name:
        raise ValueError(f"name is {name!r}: expected the name of the files, without their folder and suffix")
    folder = make_folder(folder)
    _clouds_to_pixels(figure)
    # No date inside, so that the same data give the same files.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}}

    def image(path: Path) -> None:
        kind = path.suffix.removeprefix(".")
        with mpl.rc_context(STYLE):
            figure.savefig(path, format=kind, metadata=metadata[kind])

    paths = [write_atomically(folder / f"{name}{suffix}", image) for suffix in (".png", ".pdf")]
    if data is not None:
        content = packed(data)
        paths.append(write_atomically(folder / f"{name}.nc", lambda path: path.write_bytes(content)))
    return paths


def _clouds_to_pixels(figure: Figure) -> None:
    """Have everything of many marks drawn as pixels."""
    for ax in figure.axes:
        for artist in ax.get_children():
            marks = 0
            if isinstance(artist, Line2D) and artist.get_marker() not in (None, "None", "", " "):
                marks = np.size(artist.get_xdata())
            elif isinstance(artist, PathCollection):
                marks = len(np.asarray(artist.get_offsets()))
            elif isinstance(artist, QuadMesh):
                marks = np.size(np.asarray(artist.get_array()))
            if marks > MANY_MARKS:
                artist.set_rasterized(True)
