"""Adam in other arithmetic against that of `st.train`."""

from decimal import Decimal

import numpy as np
import pytest
import torch

import stability as st

TASK = st.Task(torch.sin, (-3, 3), points=16)


@pytest.mark.parametrize("least_slope", [None, 0.0])
@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-9), (np.longdouble, 1e-9), (Decimal, 1e-6)])
def test_adam_in_any_arithmetic_is_that_of_train(kind, tolerance, least_slope):
    chain = st.Chain("plain_prelu", 5, seeds=4)
    before = chain.table().copy()
    errors = st.references.adam_in(kind, chain, TASK, 40, least_slope=least_slope)
    np.testing.assert_array_equal(chain.table(), before)
    history = st.train(chain, TASK, iterations=40, least_slope=least_slope, progress=False)
    np.testing.assert_allclose(errors, history.best_loss, rtol=tolerance)


def test_fewer_digits_change_more_and_epsilon_holds_small_gradients_back():
    chain = st.Chain("plain_prelu", 5, seeds=4)
    exact, double, single = (st.references.adam_in(kind, chain, TASK, 40) for kind in (Decimal, np.float64, np.float32))
    assert 0 < abs(double / exact - 1).max() < 1e-6 < 1e3 * abs(single / exact - 1).max() < 1
    # At depth 60 all gradients of the first layers are below epsilon: without it these move as others do.
    deep = st.Chain("plain_prelu", 60, seeds=4)
    with_epsilon, without = (st.references.adam_in(np.float64, deep, TASK, 20, epsilon) for epsilon in (1e-8, 0.0))
    assert (with_epsilon != without).any()


def test_what_it_is_not_for_is_refused_by_name():
    chain = st.Chain("plain_prelu", 3, seeds=2)
    with pytest.raises(ValueError, match=r"kind is <class 'int'>: expected numpy.float32"):
        st.references.adam_in(int, chain, TASK, 5)
    for other in (
        st.Chain("residual2_prelu", 3, seeds=2),
        st.Chain("plain_prelu", 3, seeds=2, width=4),
        st.Chain("plain_prelu", 3, seeds=2, dtype=torch.float32),
    ):
        with pytest.raises(ValueError, match=r"expected plain_prelu of width 1 in torch\.float64"):
            st.references.adam_in(np.float64, other, TASK, 5)
    with pytest.raises(TypeError, match="chain is a str"):
        st.references.adam_in(np.float64, "plain_prelu", TASK, 5)
    with pytest.raises(ValueError, match="epsilon"):
        st.references.adam_in(np.float64, chain, TASK, 5, epsilon=-1.0)
