"""A figure's files: small, of the same layout, and of the colours that were drawn."""

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import stability as st


def lines():
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    for shade in range(12):
        ax.plot([0, 1], [shade, 12 - shade], color=(shade / 11, 0.3, 0.7), alpha=0.6)
    ax.set_ylabel("a name that takes room")
    return figure


def drawn(figure):
    buffer = io.BytesIO()
    with mpl.rc_context({**st.plots.STYLE, "figure.constrained_layout.use": False}):
        figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"), dtype=int), len(buffer.getvalue())


def test_lines_are_stored_with_a_palette_near_their_colours(tmp_path):
    full, size = drawn(lines())
    path = st.plots.save(lines(), None, tmp_path, "lines")[0]
    stored = Image.open(path)
    assert stored.mode == "P"
    assert path.stat().st_size < 0.5 * size
    assert np.quantile(np.abs(np.asarray(stored.convert("RGB"), dtype=int) - full), 0.99) <= 4


def test_a_smooth_range_of_colours_keeps_them_all(tmp_path):
    figure = Figure(figsize=(4, 3))
    red, green = np.meshgrid(np.linspace(0, 1, 300), np.linspace(0, 1, 300))
    blue = np.random.default_rng(0).random((300, 300))
    figure.subplots().imshow(np.stack([red, green, blue], axis=-1), interpolation="none")
    stored = np.asarray(Image.open(st.plots.save(figure, None, tmp_path, "range")[0]).convert("RGB"), dtype=int)
    assert (stored == drawn(figure)[0]).all()


def test_both_files_have_one_layout_and_the_figure_keeps_its_own(tmp_path):
    figure = lines()
    engine = figure.get_layout_engine()
    st.plots.save(figure, None, tmp_path, "lines")
    assert figure.get_layout_engine() is engine
    left = figure.axes[0].get_position().x0
    assert left > 0.1  # the engine has made room, and the PDF has it as well
    figure.axes[0].set_ylabel("a name\nof\nmany\nlines")
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().x0 > left + 0.05
