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
    with pytest.raises(ValueError, match="expected a scalar"):
        st.plots.slice(both)
    with pytest.raises(ValueError, match="by"):
        st.plots.slice(ring, by="area")
    with pytest.raises(TypeError, match="PiecewiseLinearSlice"):
        st.plots.slice(3)
    st.plots.slice(both, by="none")
    plt.close("all")
