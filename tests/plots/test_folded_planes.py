"""Pictures of slices: what is drawn, and what is refused."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import stability as st


@pytest.fixture
def ring():
    return st.restrict(lambda x: x.abs().sum(), st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True))


def test_regions_folds_and_level_sets_are_drawn(ring):
    (ax,) = st.plots.slice(ring, level=0.5).axes
    regions, folds = ax.collections
    assert len(regions.get_paths()) == 4
    np.testing.assert_allclose(np.sort(regions.get_array()), 1.0)  # corners 0, 1, 2 and 1
    assert len(folds.get_segments()) == 4
    assert len(ax.lines) == 2  # the rim and the level set
    (ax,) = st.plots.slice(ring, by="slope", draw_folds=False).axes
    (regions,) = ax.collections
    np.testing.assert_allclose(regions.get_array(), 8**0.5)
    plt.close("all")


def test_what_cannot_be_drawn_is_refused(ring):
    both = st.restrict(torch.nn.ReLU(), ring.plane)
    with pytest.raises(ValueError, match="expected a scalar; give by='slope', or by='none'"):
        st.plots.slice(both)
    with pytest.raises(ValueError, match="by"):
        st.plots.slice(ring, by="area")
    with pytest.raises(TypeError, match="PiecewiseLinearSlice"):
        st.plots.slice(3)
    st.plots.slice(both, by="none")
    plt.close("all")


def test_folds_have_the_colours_of_the_layers_where_they_were_born():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [torch.nn.Linear(2, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1)]
    f = st.restrict(torch.nn.Sequential(*layers), st.plane([-3.0, -3.0], [3.0, -3.0], [-3.0, 3.0], rectangle=True))
    figure = st.plots.slice(f, births=True, colour="plasma")
    (ax,) = figure.axes
    (bar,) = ax.child_axes
    regions, folds = ax.collections
    figure.canvas.draw()
    born = f.folds(births=True)
    colours = {}
    for segment, colour in zip(folds.get_segments(), folds.get_colors(), strict=True):
        (number,) = np.flatnonzero((born.at == segment).all(axis=(1, 2)))
        colours.setdefault(born.layers[number], set()).add(tuple(colour))
    assert colours == {layer: {plt.get_cmap("plasma")(0.8 * layer)} for layer in (0, 1)}
    assert (regions.get_facecolors()[:, :3].min(axis=1) > 0.7).all()  # pale
    assert bar.get_ylabel() == "layer of birth"
    assert [tick for tick in bar.get_yticks() if -0.5 <= tick <= 1.5] == [0, 1]
    st.plots.slice(f, births=True, by="none", draw_folds=False)
    plt.close("all")
