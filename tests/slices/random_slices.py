"""Random modules over random planes, aimed at what rounding gets wrong, against polygons clipped in rational numbers.

`python -m tests.slices.random_slices 1000` makes so many, and tells of those that are wrong or refused.
"""

from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional

import stability as st
from tests.outcomes import count_outcomes

from . import exact_polygons as exact


class Network(torch.nn.Module):
    """A network as a list of operations, each of them a function of tensors and one of exact regions."""

    def __init__(self, seed):
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.numbers = self.random.choice(["thirds", "tenths", "halves", "generic", "generic"])
        self.width = int(self.random.integers(2, 4))
        self.rectangle = bool(self.random.random() < 0.5)
        self.inputs = [self.draw(self.width) for _ in range(3)]
        self.biased = self.random.random() < 0.7
        self.one = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.steps, width = [], self.width
        for _ in range(int(self.random.integers(1, 4))):
            width = self.add(width)
        self.linear(width, 1 if self.random.random() < 0.7 else 2)

    def draw(self, *shape):
        if self.numbers == "generic":
            return torch.tensor(self.random.uniform(-1, 1, shape))
        return torch.tensor(self.random.integers(-6, 7, shape) / {"thirds": 3, "tenths": 10, "halves": 2}[self.numbers])

    def linear(self, width, outputs):
        weight, bias = self.draw(outputs, width), self.draw(outputs) * float(self.biased)
        self.steps.append(
            (
                lambda h: functional.linear(h, weight, bias),
                lambda regions: exact.linear(regions, weight.tolist(), bias.tolist()),
            )
        )
        return outputs

    def add(self, width):
        """Add a layer with an activation; return how many numbers it makes."""
        inner = self.linear(width, int(self.random.integers(1, 4)))
        kind = self.random.choice(["relu", "relu", "leaky", "abs", "both", "shortcut", "largest"])
        slope = {"relu": 0.0, "leaky": 0.25, "abs": -1.0}.get(kind)
        if slope is not None:
            act = {"relu": torch.relu, "abs": torch.abs}.get(kind, lambda h: functional.leaky_relu(h, slope))
            self.steps.append((act, lambda regions: exact.leaky(regions, slope)))
            return inner
        if kind == "largest":
            self.steps.append((lambda h: h.amax(dim=-1, keepdim=True), exact.largest))
            return 1
        eye = np.eye(inner)
        if kind == "both":  # concatenated ReLU
            twice = np.concatenate([eye, -eye]).tolist()
            self.steps.append(
                (
                    lambda h: torch.cat([h.relu(), (-h).relu()], dim=-1),
                    lambda regions: exact.leaky(exact.linear(regions, twice, [0] * 2 * inner), 0),
                )
            )
            return 2 * inner
        other, shift = self.draw(inner, inner), self.draw(inner) * float(self.biased)

        def regions_of(regions):
            # h and relu(h) side by side: relu(h) = (h + |h|) / 2 leaves h to be had again.
            twice = np.concatenate([eye, -eye]).tolist()
            halves = exact.leaky(exact.linear(regions, twice, [0] * 2 * inner), 0)
            exactly = [
                [Fraction(w) + (1 if i == j else 0) for j, w in enumerate(row)]
                + [-1 if i == j else 0 for j in range(inner)]
                for i, row in enumerate(other.tolist())
            ]
            return exact.linear(halves, exactly, shift.tolist())

        self.steps.append((lambda h: h + functional.linear(h.relu(), other, shift), regions_of))
        return inner

    def forward(self, h):
        for apply, _ in self.steps:
            h = apply(h)
        return h

    def plane(self):
        return st.plane(*self.inputs, rectangle=self.rectangle)

    def regions(self):
        p, q, r = ([Fraction(x) for x in side.tolist()] for side in self.inputs)
        weight = [[y - x, z - x] for x, y, z in zip(p, q, r, strict=True)]
        regions = exact.linear(exact.whole(self.rectangle), weight, p)
        for _, regions_of in self.steps:
            regions = regions_of(regions)
        return regions


class Ordered(Network):
    """One that sorts what comes out of every layer."""

    def add(self, width):
        inner = super().add(width)
        self.steps.append((lambda h: h.sort(dim=-1).values, exact.ordered))
        return inner


def euler(f):
    return len(f.vertices) - len(f.edges) + len(f.faces)


def outcome(seed, network=Network):
    """Return "right", "undecided", "degenerate", "wrong: ..." or "refused: ..."."""
    net = network(seed)
    try:
        plane = net.plane()
    except ValueError:
        return "degenerate"
    regions = net.regions()
    areas = sorted(exact.area(polygon) for polygon, _ in regions)
    folds = exact.folds(regions)
    for exactly in (False, True):
        try:
            f = st.restrict(net, plane, exact=exactly)
        except (TypeError, ValueError) as error:
            return f"refused: {error}"
        found = f.count()
        if euler(f) != 1:
            return f"wrong: V - E + F = {euler(f)}"
        if found.undecided:
            return "undecided"
        if (found.folds, found.regions) != (folds, len(regions)):
            return (
                f"wrong: {found.folds} folds, {found.regions} regions; {folds}, {len(regions)} are right ({exactly=})"
            )
        if exactly and sorted(f.areas.tolist()) != areas:
            return "wrong: exact areas"
        if np.abs(np.sort(f.areas.astype(float)) - np.array(areas, dtype=float)).max() > 1e-11:
            return "wrong: areas"
        if abs(f.areas.sum() - sum(areas)) > 1e-12:
            return "wrong: sum of areas"
        for polygon, maps in regions:
            middle = tuple(sum(x) / len(polygon) for x in zip(*polygon, strict=True))
            far = f(np.array([middle], dtype=object if exactly else float))[0] - [exact.at(one, middle) for one in maps]
            size = max(1.0, *(float(abs(x)) for one in maps for x in one))
            if np.abs(far.astype(float)).max() > (0 if exactly else 1e-12 * size):
                return f"wrong: a value is off by {far}"
    return "right"


if __name__ == "__main__":
    count_outcomes(outcome)
