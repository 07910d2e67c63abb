"""Random modules along random lines, aimed at what rounding gets wrong, against rational arithmetic.

`python -m tests.folds.random_modules 20000` makes so many, and tells of those whose folds, turns or values are wrong
though nothing is undecided, of those refused, and how many are undecided.
"""

from fractions import Fraction

import numpy as np
import torch
from torch.nn import functional

import stability as st
from tests.outcomes import count_outcomes

from . import exact_lines as exact


class Network:
    """A network as a list of operations, each of them a function of tensors and one of exact pieces."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.dtype = torch.float64 if self.random.random() < 0.7 else torch.float32
        self.numbers = self.random.choice(["thirds", "tenths", "halves", "generic"])
        self.width = int(self.random.integers(1, 4))
        self.start, self.end = self.draw(self.width), self.draw(self.width)
        if self.random.random() < 0.3:  # through 0
            self.end = self.start * torch.tensor(-float(self.random.choice([1, 2, 3, 0.5, 5])), dtype=self.dtype)
        if torch.equal(self.start, self.end):
            self.end = self.start + 1
        self.biased = self.random.random() < 0.6
        self.steps, width = [], self.width
        for _ in range(int(self.random.integers(1, 4))):
            width = self.add(width)
        outputs = 1 if self.random.random() < 0.7 else 2
        self.linear(width, outputs)

    def draw(self, *shape):
        if self.numbers == "generic":
            found = self.random.uniform(-1, 1, shape)
        else:
            found = self.random.integers(-6, 7, shape) / {"thirds": 3, "tenths": 10, "halves": 2}[self.numbers]
        return torch.tensor(found, dtype=self.dtype)

    def linear(self, width, outputs):
        weight, bias = self.draw(outputs, width), self.draw(outputs) * float(self.biased)
        if width > 1 and self.random.random() < 0.2:  # a row that cancels but for rounding
            weight[0, -1] = -weight[0, :-1].sum()
        self.steps.append(
            (
                lambda h: functional.linear(h, weight, bias),
                lambda pieces: exact.linear(pieces, weight.tolist(), bias.tolist()),
            )
        )
        return outputs

    def add(self, width):
        """Add a layer with an activation; return how many numbers it makes."""
        inner = self.linear(width, int(self.random.integers(1, 5)))
        kind = self.random.choice(["relu", "leaky", "abs", "negative", "both", "twice", "shortcut", "largest"])
        slope = {"relu": 0.0, "leaky": 0.25, "abs": -1.0, "negative": -0.5}.get(kind)
        if slope is not None:
            act = {"relu": torch.relu, "abs": torch.abs}.get(kind, lambda h: functional.leaky_relu(h, slope))
            self.steps.append((act, lambda pieces: exact.leaky(pieces, slope)))
            return inner
        if kind == "both":  # concatenated ReLU
            minus = (-torch.eye(inner, dtype=self.dtype)).tolist()
            self.steps.append(
                (
                    lambda h: torch.cat([h.relu(), (-h).relu()], dim=-1),
                    lambda pieces: exact.joined(
                        exact.leaky(pieces, 0), exact.leaky(exact.linear(pieces, minus, [0] * inner), 0)
                    ),
                )
            )
            return 2 * inner
        if kind == "largest":
            windows = [tuple(range(inner))]
            self.steps.append((lambda h: h.amax(dim=-1, keepdim=True), lambda pieces: exact.largest(pieces, windows)))
            return 1
        other, shift = self.draw(inner, inner), self.draw(inner) * float(self.biased)
        if kind == "twice":  # one layer called two times, of which one is taken from the other

            def apply(h):
                return functional.linear(h, other, shift).relu() * 3 - functional.linear(h, other, shift).relu() * 2

            def pieces_of(pieces):
                return exact.leaky(exact.linear(pieces, other.tolist(), shift.tolist()), 0)
        else:

            def apply(h):
                return h + functional.linear(h.relu(), other, shift)

            def pieces_of(pieces):
                branch = exact.linear(exact.leaky(pieces, 0), other.tolist(), shift.tolist())
                both = np.concatenate([np.eye(inner), np.eye(inner)], axis=1).tolist()
                return exact.linear(exact.joined(pieces, branch), both, [0] * inner)

        self.steps.append((apply, pieces_of))
        return inner

    def __call__(self, h):
        for apply, _ in self.steps:
            h = apply(h)
        return h

    def pieces(self):
        start, end = ([Fraction(v) for v in side.tolist()] for side in (self.start, self.end))
        pieces = exact.linear(exact.identity(0, 1), [[q - p] for p, q in zip(start, end, strict=True)], start)
        for _, pieces_of in self.steps:
            pieces = pieces_of(pieces)
        return pieces


class Module(torch.nn.Module):
    """A network with a parameter, whose dtype says in which one it works."""

    def __init__(self, net):
        super().__init__()
        self.net, self.one = net, torch.nn.Parameter(torch.ones(1, dtype=net.dtype))

    def forward(self, h):
        return self.net(h)


def outcome(seed):
    """Return "right", "undecided", "wrong: ..." or "refused: ..."."""
    net = Network(seed)
    pieces = net.pieces()
    folds, turns, _ = exact.count(pieces)
    try:
        f = st.restrict(Module(net), st.segment(net.start, net.end))
    except (TypeError, ValueError) as error:
        return f"refused: {error}"
    found = f.count()
    if found.undecided:
        return "undecided"
    if (found.folds, found.turns) != (folds, turns):
        return f"wrong: {found.folds} folds and {found.turns} turns, {folds} and {turns} are right"
    size = float(max(1, *(abs(v) for _, _, lines in pieces for line in lines for v in line)))
    for left, right, lines in pieces:
        middle = (left + right) / 2
        far = np.abs(f(float(middle)) - np.array([float(a * middle + b) for a, b in lines])).max()
        if far > 1e-10 * size and right - left > 1e-9:
            return f"wrong: a value is off by {far} at {float(middle)}"
    return "right"


if __name__ == "__main__":
    count_outcomes(outcome)
