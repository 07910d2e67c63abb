"""The three networks that find faces in MTCNN (Zhang et al. 2016), with the weights of the facenet-pytorch wheel.

Their PReLU have negative slopes in many channels. Folds along lines between images of noise are held against a search
that shares no code: slopes by forward differentiation on a grid, and bisection wherever two neighbours differ.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import stability as st

pytestmark = pytest.mark.zoo
WHEEL = find_spec("facenet_pytorch")


def stem(*layers):
    """Convolutions (inputs, outputs, size) with PReLU, and poolings (size,) after some."""
    for layer in layers:
        if len(layer) == 3:
            yield from (nn.Conv2d(*layer), nn.PReLU(layer[1]))
        else:
            yield nn.MaxPool2d(layer[0], 2, ceil_mode=True)


class Turned(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 2, 1).flatten(1)


class Heads(nn.Module):
    def __init__(self, *heads):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, x):
        return torch.cat([head(x).flatten(1) for head in self.heads], dim=1)


NETS = {
    "pnet": (
        12,
        0.2,
        lambda: nn.Sequential(
            *stem((3, 10, 3), (2,), (10, 16, 3), (16, 32, 3)), Heads(nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1))
        ),
    ),
    "rnet": (
        24,
        0.03,
        lambda: nn.Sequential(
            *stem((3, 28, 3), (3,), (28, 48, 3), (3,), (48, 64, 2)),
            Turned(),
            nn.Linear(576, 128),
            nn.PReLU(128),
            Heads(nn.Linear(128, 2), nn.Linear(128, 4)),
        ),
    ),
    "onet": (
        48,
        0.004,
        lambda: nn.Sequential(
            *stem((3, 32, 3), (3,), (32, 64, 3), (3,), (64, 64, 3), (2,), (64, 128, 2)),
            Turned(),
            nn.Linear(1152, 256),
            nn.PReLU(256),
            Heads(nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)),
        ),
    ),
}


def network(name):
    size, part, make = NETS[name]
    weights = torch.load(Path(WHEEL.submodule_search_locations[0], "data", f"{name}.pt"))
    net = make()
    with torch.no_grad():  # the same parameters in the same order
        for own, stored in zip(net.parameters(), weights.values(), strict=True):
            own.copy_(stored)
    return size, part, net.double().eval()


def slopes(net, start, way, t):
    points = start + t.reshape(-1, 1, 1, 1) * way
    return torch.func.jvp(net, (points,), (way.expand_as(points),))[1].detach()


def folds_by_search(net, start, end, cells=400):
    """Where neighbours differ in slope, cells are halved until they are 1e-10 wide."""
    way, found = end - start, 0
    left = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    at = slopes(net, start, way, left)
    left, right, low, high = left[:-1], left[1:], at[:-1], at[1:]
    while len(left):
        differ = ((low - high).abs() > 1e-9 * (low.abs() + high.abs()).amax(dim=1, keepdim=True)).any(dim=1)
        left, right, low, high = left[differ], right[differ], low[differ], high[differ]
        if len(left) and (right - left).max() < 1e-10:
            return found + len(left)
        middle = (left + right) / 2
        parts = [slopes(net, start, way, chunk) for chunk in middle.split(256)]
        inner = torch.cat(parts) if parts else low
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
        low, high = torch.cat([low, inner]), torch.cat([inner, high])
    return found


@pytest.mark.skipif(WHEEL is None, reason="needs the wheel facenet-pytorch, see make zoo")
@pytest.mark.parametrize("name", list(NETS))
def test_folds_between_images_are_those_of_a_search(name):
    size, part, net = network(name)
    assert sum(int((m.weight < 0).sum()) for m in net.modules() if isinstance(m, nn.PReLU)) > 0
    random = torch.Generator().manual_seed(0)
    one, other = (
        (torch.randint(0, 256, (1, 3, size, size), generator=random).double() - 127.5) * 0.0078125 for _ in range(2)
    )
    end = one + part * (other - one)
    f = st.restrict(net, st.segment(one, end))
    assert f.undecided == 0 or name != "pnet"  # the others take more rational numbers than a call may
    assert f.count().folds == folds_by_search(net, one, end) > 20
