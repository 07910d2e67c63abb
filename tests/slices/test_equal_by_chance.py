"""Entries that rounding makes equal where they are not: weights such as 0.1, of which three often nearly meet."""

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

SQUARE = [[-1.0, -1.0]], [[1.0, -1.0]], [[-1.0, 1.0]]
#: Of largest and of sorted outputs: where values that are equal by rounding gave a wrong count.
ONCE_WRONG = {False: (58, 136), True: (56, 157, 203, 222)}


class OfTenths(nn.Module):
    """The largest of some affine functions whose coefficients are tenths, or all of them in order."""

    def __init__(self, seed, orders):
        super().__init__()
        random = np.random.default_rng(seed)
        self.outputs, self.orders = 4 + seed % (2 if orders else 5), orders
        self.layer = nn.Linear(2, self.outputs, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight[:] = torch.from_numpy(random.integers(-9, 10, (self.outputs, 2)) / 10)
            self.layer.bias[:] = torch.from_numpy(random.integers(-3, 4, self.outputs) / 10)

    def forward(self, x):
        y = self.layer(x)
        return y.sort(dim=-1)[0] if self.orders else nn.functional.max_pool1d(y[:, None], self.outputs)[:, 0]


@pytest.mark.parametrize("orders", [False, True])
def test_a_count_is_that_of_rational_arithmetic_or_says_what_is_open(orders):
    plane = st.plane(*map(np.array, SQUARE), rectangle=True)
    wrong = []
    for seed in (*range(40), *ONCE_WRONG[orders]):
        net = OfTenths(seed, orders)
        count = st.restrict(net, plane).count()
        if not count.undecided and count != st.restrict(net, plane, exact=True).count():
            wrong.append(seed)
    assert wrong == []
