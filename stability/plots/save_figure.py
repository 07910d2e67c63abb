"""How a figure and its data are written."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from stability.foundation.arguments import door
from stability.foundation.data_files import check_data, packed
from stability.foundation.files import make_folder, write_atomically
from stability.plots.style import STYLE

#: So many marks are pixels in a PDF, which would be slow to open and to print otherwise.
MANY_MARKS = 1000
#: So far, of 255, a colour of a PNG may be from the one that was drawn, in 99 of 100 pixels: steps between shades show.
NEAR_COLOUR = 4


@door
def save(figure: Figure, data: xarray.Dataset | xarray.DataTree | None, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF with its data as netCDF beside it, each whole or not at all.

    Clouds of more than 1000 marks are pixels in the PDF. The PNG has 256 colours of its own, a third of the size, where
    these are near enough to all that the figure has.

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
        # A figure without a layout engine would be given one when it is saved.
        with mpl.rc_context({**STYLE, "figure.constrained_layout.use": False}):
            figure.savefig(path, format=kind, metadata=metadata[kind])
        if kind == "png":
            _shrink(path)

    paths = [write_atomically(folder / f"{name}.png", image)]
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.set_layout_engine("none")  # that of the PNG holds for the PDF: finding it takes as long as drawing
    try:
        paths.append(write_atomically(folder / f"{name}.pdf", image))
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
    if data is not None:
        content = packed(data)
        paths.append(write_atomically(folder / f"{name}.nc", lambda path: path.write_bytes(content)))
    return paths


def _shrink(path: Path) -> None:
    """Write a PNG again, with a palette if that is near enough."""
    with Image.open(path) as opened:
        full = opened.convert("RGB")
    few = full.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    change = np.abs(np.asarray(few.convert("RGB"), dtype=np.int16) - np.asarray(full, dtype=np.int16)).max(axis=2)
    (few if np.quantile(change, 0.99) <= NEAR_COLOUR else full).save(path, "PNG", optimize=True)


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
