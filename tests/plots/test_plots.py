"""Plots: they return the Figure, draw on the axes given, and draw the numbers of the result."""

import dataclasses
import inspect
import math
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray
from torch import nn

import stability as st

X = torch.linspace(-3, 3, 9, dtype=torch.float64)


@pytest.fixture(scope="module")
def spectrum():
    return st.spectrum(st.Chain("plain_prelu", 60, seeds=30), X)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


OTHERS = {
    "PAGE_WIDTH",
    "STYLE",
    "band",
    "colour",
    "end_labels",
    "headline",
    "make_folder",
    "numbers",
    "panels",
    "read_data",
    "save",
    "ticks",
    "write_data",
}
DRAWN = [name for name in st.plots.__all__ if name not in OTHERS]


@pytest.mark.parametrize("name", DRAWN)
def test_every_plot_has_one_signature(name):
    result, ax, *others = inspect.signature(getattr(st.plots, name)).parameters.values()
    assert (result.name, ax.name, ax.default) == ("result", "ax", None)
    assert [other.name for other in others[:2]] == ["label", "colour"]
    assert all(other.kind is other.KEYWORD_ONLY for other in others)


def test_each_architecture_has_a_colour_of_its_own():
    colours = [st.plots.colour(name) for name in (*st.ARCHITECTURES, "one of my own")]
    assert len(set(colours)) == 6


def test_the_spectrum_s_line_is_the_median(spectrum):
    figure, ax = plt.subplots()
    assert st.plots.spectrum(spectrum, ax, label="mine", colour="#112233") is figure
    depths, median = ax.lines[0].get_data()
    values = spectrum.log_values.flatten(1).numpy() / math.log(10)
    np.testing.assert_array_equal(depths, np.arange(1, 61))
    # A median of an even number of values lies between the middle two.
    assert (np.sort(values)[:, 134] <= median).all()
    assert (median <= np.sort(values)[:, 135]).all()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["mine"]
    for band, level in zip(ax.collections, (0.05, 0.25), strict=True):
        corners = band.get_paths()[0].vertices
        for depth in (1, 30, 60):
            ends = corners[corners[:, 0] == depth, 1]
            expected = np.quantile(values[depth - 1], [level, 1 - level], method="inverted_cdf")
            np.testing.assert_allclose([ends.min(), ends.max()], expected, rtol=1e-12)


def test_a_spectrum_of_many_values_has_a_line_for_each():
    chain = st.Chain("plain_relu", 15, seeds=9, width=5)
    s = st.spectrum(chain, torch.ones(1, 5, dtype=torch.float64))
    _, ax = plt.subplots()
    st.plots.spectrum(s, ax, label="wide")
    assert len(ax.lines) == 5
    for index, line in enumerate(ax.lines):
        values = np.sort(s.log_values[..., index].flatten(1).numpy() / math.log(10))
        expected = values[:, 4]  # the middle of nine seeds
        np.testing.assert_allclose(line.get_ydata(), np.where(np.isfinite(expected), expected, np.nan))
    alphas = [line.get_alpha() for line in ax.lines]
    assert alphas == sorted(alphas, reverse=True)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["wide"]
    assert "singular values" in ax.get_ylabel()


def test_the_distribution_counts_exact_zeros_as_minus_infinity():
    s = st.spectrum(st.Chain("plain_relu", 2, seeds=200), X)
    _, ax = plt.subplots()
    st.plots.distribution(s, ax, depth=2)
    share = ax.lines[0].get_ydata()
    zero = 100 * s.vanished[-1].double().mean().item()
    assert share[0] == pytest.approx(zero + 100 / (200 * 9))
    assert share[-1] == 100
    at_depth = s.log_values[-1].flatten().numpy() / math.log(10)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.sort(at_depth[np.isfinite(at_depth)]) / 2, rtol=1e-12)
    with pytest.raises(ValueError, match="the spectrum has the depths 1, 2"):
        st.plots.distribution(s, depth=3)


@pytest.mark.parametrize(("name", "depth"), [("plain_prelu", 600), ("plain_relu", 20)])
def test_vanishing_draws_the_shares(name, depth):
    s = st.spectrum(st.Chain(name, depth, seeds=20), X)
    _, ax = plt.subplots()
    st.plots.vanishing(s, ax)
    masks = [s.vanished | s.underflows(d) for d in (torch.float32, torch.float64)] + [s.vanished]
    for line, mask in zip(ax.lines, masks, strict=True):
        np.testing.assert_allclose(line.get_ydata(), 100 * mask.flatten(1).double().mean(1), atol=1e-9)
    assert ax.lines[1].get_ydata()[-1] > 50


def test_the_best_fit_is_bold():
    task = st.Task(torch.sin, (-3, 3), points=20)
    chain = st.Chain("residual2_prelu", 3, seeds=3, init="identity")
    chain.outer_bias.data[:, 0] = torch.tensor([2.0, 0.1, -3.0])
    outputs = chain(task.x).detach()
    _, ax = plt.subplots()
    st.plots.fits(chain, ax, task=task)
    bold = max(ax.lines, key=lambda line: line.get_linewidth())
    np.testing.assert_array_equal(bold.get_ydata(), outputs[1])
    (dashed,) = (line for line in ax.lines if line.get_color() == "#777777")
    np.testing.assert_array_equal(dashed.get_ydata(), task.y)
    chain.outer_bias.data[0] = math.nan
    _, ax = plt.subplots()
    st.plots.fits(chain, ax, task=task)
    np.testing.assert_array_equal(max(ax.lines, key=lambda line: line.get_linewidth()).get_ydata(), outputs[1])
    with pytest.raises(TypeError, match=r"expected a chain of width 1"):
        st.plots.fits(outputs, task=task)


def test_the_history_s_line_is_the_median():
    history = st.train(st.Chain("plain_prelu", 3, seeds=5), st.Task(torch.sin, (-3, 3)), iterations=20, progress=False)
    _, ax = plt.subplots()
    st.plots.history(history, ax)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), history.loss.median(1).values)
    assert ax.get_yscale() == "log"
    ends = {f"{name}_iteration": torch.zeros(40, dtype=torch.int64) for name in ("best", "stopped", "converged")}
    many = dataclasses.replace(
        history, loss=history.loss.repeat(1, 8) * torch.arange(1, 41), members=tuple(range(40)), **ends
    )
    _, ax = plt.subplots()
    st.plots.history(many, ax)
    corners = ax.collections[0].get_paths()[0].vertices
    ends = corners[corners[:, 0] == 7, 1]
    expected = many.loss[7].quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), interpolation="nearest")
    np.testing.assert_allclose([ends.min(), ends.max()], expected, rtol=1e-12)


@pytest.mark.parametrize("tree", [False, True])
def test_a_figure_is_saved_with_its_data(tmp_path, spectrum, tree):
    data = spectrum.to_dataset()
    stored = xarray.DataTree.from_dict({"fresh": data}) if tree else data
    paths = st.plots.save(st.plots.spectrum(spectrum), stored, tmp_path / "new", "picture")
    assert [p.name for p in paths] == ["picture.png", "picture.pdf", "picture.nc"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(p.name for p in paths)
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    assert paths[1].read_bytes()[:4] == b"%PDF"
    with xarray.open_dataset(paths[2], engine="h5netcdf", group="fresh" if tree else None) as back:
        xarray.testing.assert_identical(back.load(), data)


def test_a_full_disk_under_a_figure_s_data_is_an_error_and_no_end_of_the_process(tmp_path):
    program = """
import resource, sys, numpy, xarray, stability as st
data = xarray.Dataset({"noise": ("x", numpy.random.default_rng(0).standard_normal(40_000))})
figure = st.plots.spectrum(st.spectrum(numpy.eye(2)[None]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    st.plots.save(figure, data, sys.argv[1], "picture")
except OSError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "picture.nc: File too large; what was there before is unchanged" in run.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.pdf", "picture.png"]


def test_saving_twice_gives_the_same_pictures(tmp_path, spectrum):
    first, second = (st.plots.save(st.plots.spectrum(spectrum), spectrum.to_dataset(), tmp_path / f, "p") for f in "ab")
    assert [p.read_bytes() for p in first[:2]] == [p.read_bytes() for p in second[:2]]


def test_a_function_is_drawn_through_its_knots_with_its_folds_and_turns():
    f = st.PiecewiseLinear([0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 3.0, 1.0])
    figure, ax = plt.subplots()
    assert st.plots.function(f, ax, label="f") is figure
    line, folds, turns = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0, 0], [1, 1], [2, 3], [4, 1]])
    np.testing.assert_array_equal(folds.get_xydata(), [[1, 1], [2, 3]])
    np.testing.assert_array_equal(turns.get_xydata(), [[2, 3]])
    assert len(st.plots.function(f, marks=False).axes[0].lines) == 1
    with pytest.raises(ValueError, match="need a scalar"):
        st.plots.function(st.segment([0.0, 0.0], [1.0, 1.0]))


def test_folds_have_the_colours_of_the_layers_where_they_were_born():
    line = st.PiecewiseLinear([0, 1, 2], [0.125, 0.875, 0.125])
    f = st.restrict(st.tent(2), line)
    figure, ax = plt.subplots()
    st.plots.function(f, ax, births=True)
    (dots,) = ax.collections
    figure.canvas.draw()
    born = f.folds(births=True)
    network = born.layers >= 0
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([born.at, f(born.at)], axis=1)[network])
    colours = [tuple(c) for c in dots.get_facecolors()]
    assert dict(zip(born.layers[network].tolist(), colours, strict=True)) == {
        0: tuple(plt.get_cmap("viridis")(0.0)),
        1: tuple(plt.get_cmap("viridis")(0.8)),
    }
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, f(1.0)]])  # of the line itself
    assert figure.axes[1].get_ylabel() == "layer of birth"
    with pytest.raises(ValueError, match="born is not known"):
        st.plots.function(st.PiecewiseLinear([0, 1, 2], [0, 1, 0]), births=True)


def test_counts_are_drawn_as_median_and_bands():
    numbers = np.arange(22).reshape(2, 11)
    figure, ax = plt.subplots()
    assert st.plots.counts(dict(zip((1, 10), numbers, strict=True)), ax) is figure
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [5, 16])
    for band, level in zip(ax.collections, (0.05, 0.25), strict=True):
        corners = band.get_paths()[0].vertices
        for row, depth in enumerate((1, 10)):
            ends = corners[corners[:, 0] == depth, 1]
            np.testing.assert_allclose([ends.min(), ends.max()], np.quantile(numbers[row], [level, 1 - level]))
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 21
    with pytest.raises(ValueError, match=r"expected \(depths, seeds\), counts that are not negative"):
        st.plots.counts({1: 2, 3: 4})
    with pytest.raises(ValueError, match=r"expected \(depths, seeds\), counts that are not negative"):
        st.plots.counts({1: [2], 3: [-4]})
    with pytest.raises(TypeError, match="expected a dictionary of the counts of all seeds by depth"):
        st.plots.counts(numbers)


def test_what_cannot_be_drawn_is_named():
    chain = st.Chain("residual2_relu", 3, seeds=2)
    with pytest.raises(TypeError, match="the result is a list: expected one PiecewiseLinear"):
        st.plots.function(st.restrict(chain, (-1, 1)))
    with pytest.raises(TypeError, match=r"expected one kind of them, such as count.folds"):
        st.plots.counts({3: st.count(chain, (-1, 1))})
    with pytest.raises(ValueError, match="leave float64's range"):
        st.plots.counts({1: [1], 2: [2**2000]})
    with pytest.raises(ValueError, match="not finite"):
        st.plots.counts({1: [1], 2: [float("nan")]})


@pytest.fixture(scope="module")
def failing():
    return st.first_failure(st.Chain("plain_prelu", 30, seeds=15), X, ["float16", "float64"])


@pytest.mark.parametrize("stored", [False, True])
def test_failures_are_drawn_where_they_are(failing, stored):
    figure, ax = plt.subplots()
    assert (
        st.plots.first_failure(failing.to_dataset() if stored else failing, ax, label="mine", colour="#112233", top=2)
        is figure
    )
    marks = [line for line in ax.lines if line.get_marker() in ("o", "s", "^") and len(line.get_xdata())]
    assert [line.get_marker() for line in marks] == ["o", "s", "^"] * 2
    layers = failing.first().numpy().astype(float)
    layers[layers == 0] = np.inf
    for line, of_seeds, row in zip(marks, layers.reshape(6, -1), [2, 2, 2, 3, 3, 3], strict=True):
        (x,), (y,) = line.get_data()
        middle = np.sort(of_seeds)[7]
        assert abs(y - row) < 0.5
        # Open and beyond the depth where the median survives.
        assert x == middle if np.isfinite(middle) else x > 30
        assert line.get_markerfacecolor() == ("#112233" if np.isfinite(middle) else "white")
    assert np.isfinite(np.median(layers[0, 1]))
    assert np.isinf(np.median(layers[1, 1]))
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2]
    ends = [tuple(line.get_xdata()) for line in bars]
    assert tuple(np.quantile(layers[0, 1], [0.05, 0.95], method="inverted_cdf")) in ends
    ticks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
    predicted = failing.first(predicted=True).double().numpy()[0, 1:]
    assert ticks == list(np.median(predicted, axis=1))
    assert ax.get_legend().get_texts()[0].get_text() == "mine: activations"
    alone = st.plots.first_failure(failing).axes[0]
    assert [t.get_text() for t in alone.get_yticklabels()] == ["float16", "float64"]


def test_a_prediction_that_fails_is_shown_beside_what_survives(failing):
    survives = dataclasses.replace(failing, measured=torch.zeros_like(failing.measured))
    _, ax = plt.subplots()
    st.plots.first_failure(survives, ax)
    assert all(line.get_markerfacecolor() == "white" for line in ax.lines if line.get_marker() in ("o", "s", "^"))
    ticks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
    assert len(ticks) == 2
    assert max(ticks) <= 30


def test_what_was_not_measured_has_no_mark():
    net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)))
    f = st.first_failure(net, torch.ones(3, 4), ["float32"])
    _, ax = plt.subplots()
    st.plots.first_failure(f, ax)
    assert [line.get_marker() for line in ax.lines] == ["o", "^"]


@pytest.mark.parametrize("stored", [False, True])
def test_the_forward_error_is_drawn_with_its_bounds(stored):
    e = st.forward_error(st.Chain("residual2_prelu", 20, seeds=11), X)
    figure, ax = plt.subplots()
    assert st.plots.forward_error(e.to_dataset() if stored else e, ax, label="mine", dtype=torch.float32) is figure
    errors, bounds = (v["float32"].numpy() / math.log(10) for v in (e.log_errors, e.log_bounds))
    solid, dashed, dotted = ax.lines
    np.testing.assert_array_equal(solid.get_xdata(), np.arange(21))
    # The points themselves are exact in float32.
    assert np.isnan(solid.get_ydata()[0])
    np.testing.assert_allclose(solid.get_ydata()[1:], np.sort(errors)[1:, 5], rtol=1e-12)
    np.testing.assert_allclose(dashed.get_ydata()[1:], np.sort(bounds)[1:, 5], rtol=1e-12)
    probable = np.sort(e.log_probable_bounds["float32"].numpy())[:, 5] / math.log(10)
    np.testing.assert_allclose(dotted.get_ydata()[1:], probable[1:], rtol=1e-12)
    assert (dashed.get_linestyle(), dotted.get_linestyle()) == ("--", ":")
    corners = ax.collections[0].get_paths()[0].vertices
    ends = corners[corners[:, 0] == 10, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [errors[10].min(), errors[10].max()], rtol=1e-12)
    with pytest.raises(ValueError, match="float8"):
        st.plots.forward_error(e, ax, dtype="float8")
    lost = dataclasses.replace(e, log_errors={"float32": torch.full((21, 11), math.inf)}, formats=("float32",))
    _, ax = plt.subplots()
    st.plots.forward_error(dataclasses.replace(lost, log_bounds={}, log_probable_bounds={}), ax, dtype="float32")
    (line,) = ax.lines
    assert np.isnan(line.get_ydata()).all()


@pytest.mark.parametrize("stored", [False, True])
def test_gradient_norms_are_drawn_layer_by_layer(stored):
    torch.manual_seed(0)
    nets = [nn.Sequential(*(nn.Linear(4, 4, bias=i != 1) for i in range(5))) for _ in range(9)]
    g = st.GradientNorms.of_seeds([st.gradient_norms(net, torch.ones(3, 4), lambda y: y.sum()) for net in nets])
    for quantity, layers in [("input", [1, 2, 3, 4, 5]), ("bias", [1, 3, 4, 5])]:
        figure, ax = plt.subplots()
        assert (
            st.plots.gradient_norms(
                g.to_dataset() if stored else g, ax, label="mine", colour="#112233", quantity=quantity
            )
            is figure
        )
        (x, y), line = ax.lines[0].get_data(), ax.lines[0]
        assert x.tolist() == layers
        rows = g[quantity].numpy()[np.array(layers) - 1] / math.log(10)
        np.testing.assert_allclose(y, np.sort(rows, axis=1)[:, 4], rtol=1e-12)
        assert line.get_color() == "#112233"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mine"]
        # The light band reaches from the least to the largest of nine, the dark one over the middle half.
        for band, (low, high) in zip(ax.collections, [(0, 8), (2, 6)], strict=True):
            edges = band.get_paths()[0].vertices
            of_first = edges[edges[:, 0] == 1, 1]
            assert (of_first.min(), of_first.max()) == pytest.approx(tuple(np.sort(rows[0])[[low, high]]))
    with pytest.raises(ValueError, match="unknown quantity 'weigth'"):
        st.plots.gradient_norms(g, quantity="weigth")
    with pytest.raises(TypeError, match=r"the result is a list: expected what st.gradient_norms gave"):
        st.plots.gradient_norms([g])


@pytest.mark.parametrize("stored", [False, True])
def test_signals_are_drawn_layer_by_layer(stored):
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = st.propagation(st.Chain("residual2_prelu", 6, seeds=3, width=4), x, pairs=[(0, 1)])
    given = p.to_dataset() if stored else p
    for quantity, values, first in [
        ("norm", p.log_norms, 0),
        ("update", p.log_updates, 1),
        ("decorrelation", p.log_decorrelations, 0),
    ]:
        figure, ax = plt.subplots()
        assert st.plots.propagation(given, ax, quantity=quantity) is figure
        places, median = ax.lines[0].get_data()
        assert places.tolist() == list(range(first, 7))
        rows = np.sort(values.flatten(1).numpy(), axis=1) / math.log(10)
        np.testing.assert_allclose(median, rows[:, rows.shape[1] // 2], rtol=1e-12)
        assert ax.get_legend() is None
    with pytest.raises(ValueError, match="unknown quantity 'norms'"):
        st.plots.propagation(given, quantity="norms")
    with pytest.raises(TypeError, match=r"the result is a int: expected what st.propagation gave"):
        st.plots.propagation(3)


def test_zeros_end_the_lines_of_gradients_and_signals():
    chain = st.Chain("plain_relu", depth=3, seeds=3, init="uniform")
    with torch.no_grad():
        for kind, value in chain.named_parameters():
            if kind in ("weight", "bias"):
                value[:, 1] = 0
    figure = st.plots.propagation(st.propagation(chain, X))
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[2])
    figure = st.plots.gradient_norms(st.gradient_norms(chain, X, lambda y: y.mean(dim=1)))
    assert np.isnan(figure.axes[0].lines[0].get_ydata()[:2]).all()


@pytest.mark.parametrize("stored", [False, True])
def test_paths_are_drawn_beside_what_random_signs_give(stored):
    found = st.paths(st.Chain("residual2_prelu", 40, seeds=20), X)
    figure = st.plots.paths(found.to_dataset() if stored else found, label="at the start")
    (ax,) = figure.axes
    middle, random, binomial = ax.lines
    shares = found.shares.flatten(1).quantile(0.5, dim=1).numpy()
    shown = middle.get_xdata().astype(int)
    assert middle.get_ydata() == pytest.approx(shares[shown])
    assert random.get_ydata() == pytest.approx(np.median(found.random_signs().flatten(1), axis=1)[shown])
    assert binomial.get_ydata() == pytest.approx(np.median(found.binomial().flatten(1), axis=1)[shown])
    assert 1 < len(shown) < 41, "lengths without energy are left out"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["at the start", "at the start: random signs", "at the start: binomial"]


def test_a_flow_draws_its_distances_or_its_quantiles():
    smooth = st.Architecture("flow", skip=1, maps=2, activation="tanh", branch_power=-1)
    f = st.flow(smooth, X, depths=(5, 10, 20), seeds=3)
    _, ax = plt.subplots()
    st.plots.flow(f, ax, label="tanh")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), f.distances.median(dim=1).values)
    assert ax.lines[1].get_ydata()[-1] == ax.lines[0].get_ydata()[-1]
    assert ax.get_title(loc="left").replace("\n", " ")[1:] == f.finding[1:]
    rough = st.Architecture("flow", skip=1, maps=2, activation="tanh", branch_power=-0.5)
    g = st.flow(rough, X, depths=(5, 10), seeds=60)
    _, ax = plt.subplots()
    st.plots.flow(g, ax)
    limits = [
        line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 2
    ]
    np.testing.assert_allclose(limits, g.statistics[1][-1, 2:])
