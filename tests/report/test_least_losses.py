"""The least losses of outputs are those of closed forms, and none is given where there is none."""

import math
import time

import pytest
import torch
from torch.nn import functional

from stability.report.least_losses import TooLong, least_losses

CLASSES, POINTS = 4, 32
LABELS = torch.arange(POINTS) % CLASSES


def output(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(POINTS, CLASSES, generator=generator)).requires_grad_()


def of(loss, start, memory=1.0, until=math.inf):
    return least_losses(loss, start, 0, POINTS, until, memory)


def entropy(*shares):
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize("scale", [1.0, 1e10])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_of_labels_they_are_entropies_wherever_the_search_begins(smoothing, scale):
    least, constant = of(lambda y: functional.cross_entropy(y, LABELS, label_smoothing=smoothing), output(scale))
    other = smoothing / CLASSES
    expected = entropy(1 - 3 * other, other, other, other) if smoothing else 0.0
    assert least == pytest.approx(expected, abs=1e-5)
    assert constant == pytest.approx(math.log(CLASSES), rel=1e-5)


def test_of_squares_they_are_0_and_the_variance():
    target = 1000 + torch.randn(POINTS, CLASSES, generator=torch.Generator().manual_seed(1))
    least, constant = of(lambda y: functional.mse_loss(y, target), output())
    assert least == pytest.approx(0.0, abs=1e-4)
    assert constant == pytest.approx(float(target.var(0, correction=0).mean()), rel=1e-3)


def test_targets_that_are_passed_on_do_not_move():
    points = torch.randn(POINTS, CLASSES, generator=torch.Generator().manual_seed(1))
    passed = {"made": output(), "points": points}
    _, constant = of(lambda y: functional.mse_loss(y["made"], y["points"]), passed)
    assert constant == pytest.approx(float(points.var(0, correction=0).mean()), rel=1e-4)


def test_there_are_none_where_the_points_are_not_apart_or_memory_does_not_hold_them():
    assert of(torch.mean, torch.randn(CLASSES, requires_grad=True)) is None
    assert of(torch.mean, output(), memory=1e-9) is None


def test_a_search_ends_in_time():
    with pytest.raises(TooLong):
        of(lambda y: functional.cross_entropy(y, LABELS), output(), until=time.monotonic() - 1)


def test_a_loss_that_counts_is_left_as_it_was():
    count = 0

    def loss(y):
        nonlocal count
        count += 1
        return functional.cross_entropy(y, LABELS)

    assert of(loss, output()) is not None
    assert count == 0
