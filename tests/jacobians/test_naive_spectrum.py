"""The naive product: what one gets by multiplying and decomposing."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stability as st


def test_it_is_the_decomposition_of_the_product_of_given_matrices():
    matrices = torch.randn(30, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = st.naive_spectrum(matrices)
    assert found.shape == st.spectrum(matrices).log_values.shape == (30, 2, 6)
    for member in range(2):
        product = np.eye(6)
        for depth, matrix in enumerate(matrices[:, member].numpy()):
            product = matrix @ product
            expected = np.log(np.linalg.svd(product, compute_uv=False))
            np.testing.assert_allclose(found[depth, member], expected, rtol=1e-9, atol=1e-12)


def test_it_has_the_leading_value_right_and_the_last_one_wrong_of_a_deep_chain():
    chain = st.Chain("plain_prelu", 60, seeds=2, width=8)
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s, naive = st.spectrum(chain, x), st.naive_spectrum(chain, x)
    assert naive.shape == s.log_values.shape
    np.testing.assert_allclose(naive[..., 0], s.log_values[..., 0], atol=1e-9)
    np.testing.assert_allclose(naive[0], s.log_values[0], atol=1e-9)
    assert ((naive - s.log_values)[-1, ..., -1] > 10).all()


def test_of_a_module_it_agrees_with_a_product_of_autograd_s_jacobians():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(n, m), nn.Tanh()) for n, m in ((5, 7), (7, 4), (4, 6)))).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    naive = st.naive_spectrum(net, x, [f"{place}" for place in range(3)])
    assert naive.shape == (3, 1, 2, 5)
    for point in range(2):
        jacobian = torch.autograd.functional.jacobian(net, x[point])
        expected = torch.linalg.svdvals(jacobian).log()[:4]
        np.testing.assert_allclose(naive[-1, 0, point, :4], expected, rtol=1e-9)


def test_values_of_zero_are_minus_infinity_and_there_are_as_many_as_the_first_layer_leaves():
    found = st.naive_spectrum([torch.eye(3)[:2], torch.ones(1, 2), torch.zeros(4, 1)])
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, [[0, 0], [math.log(2) / 2, -math.inf], [-math.inf] * 2], atol=1e-12)


def test_what_has_no_naive_spectrum_is_refused_by_name():
    with pytest.raises(ValueError, match="product of the first 3 layers is beyond float64"):
        st.naive_spectrum(torch.full((3, 1, 1), 1e150, dtype=torch.float64))
    with pytest.raises(ValueError, match="one neuron a layer"):
        st.naive_spectrum(st.Chain("plain_relu", 3), torch.ones(1, dtype=torch.float64))
    with pytest.raises(TypeError, match="x is missing"):
        st.naive_spectrum(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="matrices have no layers="):
        st.naive_spectrum(torch.eye(2)[None], layers="a")
