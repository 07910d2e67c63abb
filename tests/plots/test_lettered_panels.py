"""Figures of a few panels, and their data."""

import numpy as np
import pytest
import torch
import xarray

import stability as st


def test_panels_are_lettered_in_bold_and_as_wide_as_a_page():
    figure, axes = st.plots.panels("ab;cc", height=3)
    assert figure.get_figwidth() == st.plots.PAGE_WIDTH
    for letter, ax in axes.items():
        title = ax.get_title(loc="left")
        assert title == letter
        assert ax._left_title.get_fontweight() == "bold"
        sizes = [text.get_fontsize() for text in (*ax.get_xticklabels(), ax.xaxis.label, ax.title)]
        assert min(sizes) >= 7
    with pytest.raises(ValueError, match="letters in rows of one length"):
        st.plots.panels("ab;c", height=3)


def test_a_headline_is_wrapped_within_the_figure_and_leaves_formulas_whole():
    figure, _ = st.plots.panels("a", height=3)
    text = "no chain comes closer to $x + 1.5 \\, \\sin 3x$ than one, " * 4
    assert st.plots.headline(figure, text) is figure
    lines = figure.get_suptitle().splitlines()
    assert len(lines) > 1
    assert " ".join(lines) == text.strip()
    assert all(line.count("$") % 2 == 0 for line in lines)
    figure.savefig("/dev/null", format="png")
    assert figure._suptitle.get_window_extent().width <= figure.bbox.width
    # As full as can be: the first word of a line has no room on the one before.
    st.plots.headline(figure, "a word")
    assert figure.get_suptitle() == "a word"


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a\nof two lines", "b", "c\nof two"]])
def test_labels_at_line_ends_keep_their_order_and_do_not_meet(names):
    figure, axes = st.plots.panels("a", height=3)
    axes["a"].set(ylim=(0, 1))
    heights = dict(zip(names, (0.5, 0.51, 0.505), strict=True))
    st.plots.end_labels(axes["a"], {**heights, "far": 0.05}, {names[0]: "red"})
    figure.savefig("/dev/null", format="png")
    boxes = {text.get_text(): text.get_window_extent() for text in axes["a"].texts}
    for low, high in ((names[0], names[2]), (names[2], names[1])):
        assert boxes[low].y1 <= boxes[high].y0
    middle = sum(box.y0 + box.y1 for name, box in boxes.items() if name != "far") / 6
    # Two heights of three are moved, and together not at all; what has room is at its height.
    assert axes["a"].transData.inverted().transform((0, middle))[1] == pytest.approx(0.505, abs=0.03)
    far = axes["a"].transData.inverted().transform((0, (boxes["far"].y0 + boxes["far"].y1) / 2))[1]
    assert far == pytest.approx(0.05, abs=0.02)
    assert {text.get_text(): text.get_color() for text in axes["a"].texts}[names[0]] == "red"
    with pytest.raises(ValueError, match="leave out the lines"):
        st.plots.end_labels(axes["a"], {"a": np.nan})
    with pytest.raises(ValueError, match="none of the labels"):
        st.plots.end_labels(axes["a"], {"a": 0.5}, {"b": "red"})


@pytest.mark.parametrize(
    "of",
    [
        lambda data: data,
        lambda data: xarray.DataTree.from_dict({"one": data, "two": data}),
        lambda data: xarray.DataTree.from_dict({"log_values": data}),  # a group and a variable of one name
    ],
)
def test_data_are_read_as_they_were_written(tmp_path, of):
    s = st.spectrum(st.Chain("plain_prelu", 5, seeds=3), torch.ones(2, dtype=torch.float64))
    data = of(s.to_dataset().assign_attrs(words="é"))
    path = st.plots.write_data(data, tmp_path / "data.nc")
    found = st.plots.read_data(path)
    assert type(found) is type(data)
    xarray.testing.assert_identical(found, data)
    content = path.read_bytes()
    for cut in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="is no whole netCDF file"):
            st.plots.read_data(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        st.plots.read_data(tmp_path / "other.nc")


def test_clouds_are_pixels_in_a_pdf_and_a_figure_may_be_saved_without_data(tmp_path):
    figure, axes = st.plots.panels("abc", height=2)
    many, few = np.arange(2000.0), np.arange(10.0)
    clouds = [axes["a"].plot(many, ".")[0], axes["b"].scatter(many, many), axes["c"].pcolormesh(np.ones((50, 50)))]
    others = [axes["a"].plot(many)[0], axes["a"].plot(few, ".")[0], axes["b"].scatter(few, few)]
    paths = st.plots.save(figure, None, tmp_path, "cloud")
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert [one.get_rasterized() for one in clouds] == [True] * 3
    assert not any(one.get_rasterized() for one in others)


def test_ticks_are_these_alone_by_their_numbers():
    figure, axes = st.plots.panels("a", height=2)
    ax = axes["a"]
    ax.set(xscale="log", yscale="log", xlim=(3, 1000), ylim=(0.05, 1))
    y_before = ax.get_yticks().tolist()
    st.plots.ticks(ax, x=(3, 30, 1000))
    figure.savefig("/dev/null", format="png")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "30", "1000"]
    assert ax.get_yticks().tolist() == y_before
    assert [*ax.xaxis.get_minorticklocs(), *ax.yaxis.get_minorticklocs()] == []
    st.plots.ticks(ax, y=[0.05, 1.0])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.05", "1"]
    for wrong in ([1, float("nan")], ["a"], 3):
        with pytest.raises(ValueError, match=r"y is .*: expected the places"):
            st.plots.ticks(ax, y=wrong)
