"""A median with its band, and a table of numbers on their colours."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

import stability as st


@pytest.fixture
def ax():
    return st.plots.panels("a", height=2)[1]["a"]


def test_a_band_is_drawn_where_all_is_finite(ax):
    levels = np.array([[0.0, 1, -np.inf, 3], [1, 2, 3, 4], [2, 3, 4, 5]])
    st.plots.band(ax, [1, 2, 3, 4], levels, "#D55E00", marks=3)
    (line,), (area,) = ax.lines, ax.collections
    np.testing.assert_array_equal(line.get_xydata(), [[1, 1], [2, 2], [4, 4]])
    assert (line.get_color(), line.get_marker()) == ("#D55E00", "o")
    corners = {tuple(corner) for corner in area.get_paths()[0].vertices.tolist()}
    assert {(1, 0), (1, 2), (2, 1), (2, 3), (4, 3), (4, 5)} <= corners
    assert not any(x == 3 for x, _ in corners)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (np.zeros((3, 5)), r"levels has shape \(3, 5\) and x \(4,\)"),
        ([[0.0] * 4, [2.0] * 4, [1.0] * 4], "levels are not in order"),
    ],
)
def test_levels_of_another_shape_or_order_are_refused(ax, levels, words):
    with pytest.raises(ValueError, match=words):
        st.plots.band(ax, range(4), levels, "black")


def test_small_numbers_are_written_legibly_and_nan_is_left_blank(ax):
    table = [[0.0, 97.0, np.nan], [60.0, 30.0, 94.0]]
    st.plots.numbers(ax, table, ["one", "two"], list("abc"), below=95)
    written = {text.get_position(): (text.get_text(), to_rgb(text.get_color())[0]) for text in ax.texts}
    assert written == {(0, 0): ("0", 0), (0, 1): ("60", 1), (1, 1): ("30", 0), (2, 1): ("94", 1)}
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["one", "two"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list("abc")
    with pytest.raises(ValueError, match=r"values has shape \(2, 3\): expected \(1, 3\)"):
        st.plots.numbers(ax, table, ["one"], list("abc"))
