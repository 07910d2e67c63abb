"""Bends that float64 cannot hold on their way through layers: they are in doubt, and never taken for none."""

import numpy as np
import pytest
import torch
from torch import nn

import stability as st


def perceptron(activation, *layers):
    """Layers of given weights and biases, with an activation between any two."""
    modules = []
    for weight, bias in layers:
        layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
        with torch.no_grad():
            layer.weight[:] = torch.tensor(weight, dtype=torch.float64)
            layer.bias[:] = torch.tensor(bias, dtype=torch.float64)
        modules += [layer, activation]
    return nn.Sequential(*modules[:-1])


NETS = {
    "a slope takes it below the range": perceptron(
        nn.LeakyReLU(1e-30),
        ([[1, 0], [0, 1]], [0, 0]),
        ([[1e-300, 1e-300]], [-1]),
        ([[1e300]], [0]),
    ),
    "weights take it above the range": perceptron(
        nn.ReLU(),
        ([[1e-150, 0]], [0]),
        ([[1e160]], [1e147]),
        ([[1e160], [-1e160]], [0, 0]),
        ([[1e-170, 0]], [0]),
    ),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_bends_beyond_the_range_are_in_doubt(net):
    plane = st.plane(np.array([-1.0, -1.0]), np.array([1.0, -1.0]), np.array([-1.0, 1.5]))
    exact = st.restrict(net, plane, exact=True).count()
    assert exact.folds > 0
    count = st.restrict(net, plane).count()
    assert count.undecided or count == exact
