"""Initialisations as data: a distribution for each kind of parameter, and how it scales."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from stability.foundation.checks import check_interval, check_name, check_number
from stability.networks.architecture import Architecture
from stability.networks.seeding import uniforms

Array = NDArray[np.float64]


def _orthogonal(u: Array) -> Array:
    # QR of a Gaussian matrix, with the diagonal of R made positive, is Haar distributed (Mezzadri 2007).
    q, r = np.linalg.qr(ndtri(u))
    signs: Array = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    return np.asarray(q * signs[..., None, :])


#: Each family at scale 1, as a function of uniform numbers: the same member drawn from two families
#: differs in the family alone.
FAMILIES: dict[str, Callable[[Array], Array]] = {
    "constant": np.ones_like,
    "uniform": lambda u: 2 * u - 1,
    "normal": lambda u: np.asarray(ndtri(u)),
    "sign": lambda u: np.where(u < 0.5, -1.0, 1.0),
    "orthogonal": _orthogonal,
    "identity": lambda u: np.broadcast_to(np.eye(u.shape[-1]), u.shape).copy(),
}


#: E value^2 of the families of numbers, at scale 1; the others are families of square matrices.
_MEAN_SQUARES = {"constant": 1.0, "uniform": 1 / 3, "normal": 1.0, "sign": 1.0}


@dataclass(frozen=True)
class Distribution:
    """The distribution of one kind of parameter: scale * width^width_power * depth^depth_power * family.

    Attributes:
        family: "constant" (1), "uniform" on (-1, 1), "normal" N(0, 1), "sign" (-1 or 1), and for square
            weights "orthogonal" (Haar) and "identity".
        scale: the half-width of the uniform, the standard deviation of the normal, the constant itself.
        width_power: the power of the width that multiplies it.
        depth_power: the power of the depth that multiplies it.
        gain: also multiply by the gain of the activation, 1 / sqrt(E phi(z)^2) with z ~ N(0, 1).
    """

    family: str
    scale: float = 1.0
    width_power: float = 0.0
    depth_power: float = 0.0
    gain: bool = False

    def __post_init__(self) -> None:
        check_name("family of distributions", self.family, FAMILIES)
        for name in ("scale", "width_power", "depth_power"):
            check_number(f"the {name} of a distribution", getattr(self, name))
        if not isinstance(self.gain, bool):
            raise TypeError(f"the gain of a distribution is {self.gain!r}: expected True or False")

    def quantile(self, u: Array, width: int, depth: int, gain: float) -> Array:
        """Return the values at the uniform numbers `u`, (..., n, n) for a weight and (..., n) else."""
        scale = self.scale * float(width) ** self.width_power * float(depth) ** self.depth_power
        return np.asarray(FAMILIES[self.family](u) * (scale * gain if self.gain else scale))


ZERO = Distribution("constant", 0.0)
_TORCH = Distribution("uniform", width_power=-0.5)
_QUARTER = Distribution("constant", 0.25)


@dataclass(frozen=True)
class Init:
    """An initialisation: where each kind of parameter comes from. n is the width, L the depth.

    Attributes:
        name: its name.
        formula: the same in words.
        weight, bias, outer_weight, outer_bias, slope: a distribution for each kind of parameter.
        readout_weight, readout_bias: the same for the read-out; None means as `weight` and `bias`.
        kinks: width 1 only. An interval (low, high) over which the kinks t of the L steps are spread evenly,
            t = low + (high - low) (rank + 1/2) / L, the rank a random order of the steps; the bias is then
            -weight t.
        adapt: None, or maps (init, architecture, width) to the initialisation that fits them, or raises
            ValueError with the reason why there is none.

    One of your own is a variation of a named one:

    >>> import dataclasses, stability as st
    >>> unbiased = dataclasses.replace(st.INITS["pytorch"], name="unbiased",
    ...                                bias=st.Distribution("constant", 0.0))
    >>> st.Chain("plain_prelu", depth=4, init=unbiased).bias.abs().max().item()
    0.0
    """

    name: str
    formula: str
    weight: Distribution = _TORCH
    bias: Distribution = _TORCH
    outer_weight: Distribution = _TORCH
    outer_bias: Distribution = _TORCH
    slope: Distribution = _QUARTER
    readout_weight: Distribution | None = None
    readout_bias: Distribution | None = None
    kinks: tuple[float, float] | None = None
    adapt: Callable[[Init, Architecture, int], Init] | None = None

    def __post_init__(self) -> None:
        if self.kinks is not None:
            check_interval(self.kinks)
        for kind in ("bias", "outer_bias", "slope", "readout_bias"):
            law = getattr(self, kind)
            if law is not None and law.family not in _MEAN_SQUARES:
                raise ValueError(
                    f"init {self.name!r} draws {kind} from {law.family!r}, a family of square matrices: take one of "
                    f"{', '.join(map(repr, _MEAN_SQUARES))}"
                )


def _leave_identity(init: Init, architecture: Architecture, _width: int) -> Init:
    """The identity, with a gradient to leave it, where the architecture has one."""
    eye, one = Distribution("identity"), Distribution("constant", 1.0)
    skip, phi, parts = architecture.skip, architecture.phi, architecture.parts
    # A branch whose last map is 0 is 0 and, but behind a ReLU, trains that map.
    if skip == 1 and parts[-1] == "add" and (parts[-2] != "activation" or phi.derivative_at_zero != 0):
        if architecture.maps == 1:
            return replace(init, weight=ZERO, bias=ZERO)
        return replace(init, outer_weight=ZERO, outer_bias=ZERO)
    if skip == 0 and phi.trains_slope and "norm" not in parts and not architecture.scaled:
        return replace(init, weight=eye, bias=ZERO, outer_weight=eye, outer_bias=ZERO, slope=one)
    if skip == 1 and parts[-1] != "add":
        why = "what follows the addition is not the identity"
    elif skip == 1 and architecture.maps == 1:
        why = "h + relu(w h + b) is h for all h only at w = 0 and b <= 0, where every gradient is 0"
    elif skip == 1:
        why = "a branch that ends in a ReLU is 0 for all h only where every gradient is 0"
    elif skip == 0:
        why = f"{architecture.activation}(w h + b) is h for all h for no w and b"
    else:
        why = f"with a bypass of weight {skip} no finite inner map is known that restores h"
    raise ValueError(
        f"init 'identity' does not exist for {architecture.name!r}: {why}; take a chain of two maps with "
        "skip 1, or a PReLU"
    )


def _need_outer_map(init: Init, architecture: Architecture, _width: int) -> Init:
    if architecture.maps > 1:
        return init
    raise ValueError(
        f"init {init.name!r} divides the outer map by sqrt(depth), and {architecture.name!r} has none: take an "
        "architecture with maps=2"
    )


def _need_width_1(init: Init, architecture: Architecture, width: int) -> Init:
    if width == 1 and architecture.six_numbers and not architecture.shared:
        return init
    raise ValueError(
        f"init {init.name!r} spreads the kinks of a chain of width 1, and {architecture.name!r} has width {width} "
        f"and activation {architecture.activation!r}: take width=1, a piecewise-linear activation and a step of six "
        "numbers of its own"
    )


_HE = Distribution("normal", width_power=-0.5, gain=True)
_LECUN = Distribution("normal", width_power=-0.5)
_SCALED = Distribution("uniform", width_power=-0.5, depth_power=-0.5)

#: The named initialisations.
INITS: dict[str, Init] = {
    init.name: init
    for init in (
        Init(
            "pytorch",
            "what nn.Linear and nn.PReLU do: all weights and biases U(-1/sqrt(n), 1/sqrt(n)), slopes 0.25",
        ),
        Init(
            "uniform",
            "all weights U(-1, 1) at every width, no biases, slopes 0.25",
            weight=Distribution("uniform"),
            bias=ZERO,
            outer_weight=Distribution("uniform"),
            outer_bias=ZERO,
        ),
        Init(
            "he",
            "weights N(0, g^2 / n), g^2 = 1 / E phi(z)^2 for z ~ N(0, 1), which is 2 / (1 + slope^2) for PReLU "
            "(He et al. 2015); outer and read-out weights N(0, 1 / n); no biases; slopes 0.25",
            weight=_HE,
            bias=ZERO,
            outer_weight=_LECUN,
            outer_bias=ZERO,
            readout_weight=_LECUN,
        ),
        Init(
            "orthogonal",
            "weights g Q with Q orthogonal (Haar) and g the gain of 'he'; outer and read-out weights Q; no "
            "biases; slopes 0.25",
            weight=Distribution("orthogonal", gain=True),
            bias=ZERO,
            outer_weight=Distribution("orthogonal"),
            outer_bias=ZERO,
            readout_weight=Distribution("orthogonal"),
        ),
        Init(
            "identity",
            "every step exactly the identity. Two maps and skip 1: as 'pytorch' with the outer map 0. One map and "
            "skip 1: the map 0, unless that stops every gradient. No skip: PReLU with weights I, no biases and "
            "slopes 1. Refused elsewhere",
            adapt=_leave_identity,
        ),
        Init(
            "scaled",
            "as 'pytorch', the outer map divided by sqrt(L); refused where there is no outer map",
            outer_weight=_SCALED,
            outer_bias=_SCALED,
            adapt=_need_outer_map,
        ),
        Init(
            "knots",
            "width 1: weights -1 or 1, kinks spread evenly over (-3, 3) in random order, each in the input of its own "
            "step; the outer map 0, which makes every step of a chain with skip 1 and two maps the identity until it "
            "is trained; slopes 0.25; the read-out the identity",
            weight=Distribution("sign"),
            outer_weight=ZERO,
            outer_bias=ZERO,
            readout_weight=Distribution("identity"),
            readout_bias=ZERO,
            kinks=(-3.0, 3.0),
            adapt=_need_width_1,
        ),
    )
}


def find_init(init: str | Init, architecture: Architecture, width: int) -> Init:
    """Return the initialisation of that name in `INITS`, or the one given, adapted to the architecture."""
    if not isinstance(init, Init):
        init = INITS[check_name("init", init, INITS)]
    if architecture.skip is None:
        raise ValueError(
            f"{architecture.name!r} has a bypass weight in every step, which no init draws: use Chain.from_table"
        )
    return init.adapt(init, architecture, width) if init.adapt else init


def law_of(init: Init, kind: str) -> Distribution:
    """Return the distribution of a kind of parameter: maps between the first and the last are drawn as the first."""
    first = re.sub(r"^map\d+_|(?<=slope)\d+$", "", kind)
    law: Distribution = getattr(init, first)
    return law


def parameters_at(u: Array, init: Init, architecture: Architecture, width: int, depth: int = 1) -> dict[str, Array]:
    """Return the parameters of steps at uniform numbers (..., count) in (0, 1), by kind, without the n at width 1."""
    found = _read(
        u, {kind: law_of(init, kind) for kind in architecture.kinds}, width, depth, _gain(init, architecture)
    )[1]
    return {
        kind: value.reshape(*u.shape[:-1], *([] if width == 1 else value.shape[u.ndim - 1 :]))
        for kind, value in found.items()
    }


def _gain(init: Init, architecture: Architecture) -> float:
    # E phi(z)^2 is linear in E slope^2, so the root mean square of the slopes is all that the gain needs.
    slope = init.slope.scale * math.sqrt(_MEAN_SQUARES[init.slope.family])
    return architecture.phi.gain(slope)


def _read(
    u: Array, laws: dict[str, Distribution], width: int, depth: int, gain: float
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Cut a layer's numbers into one block a kind: the uniform numbers and the values they become."""
    shapes = {kind: (width, width) if kind.endswith("weight") else (width,) for kind in laws}
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(u, ends[:-1], axis=-1)
    cut = {k: part.reshape(*u.shape[:-1], *shape) for (k, shape), part in zip(shapes.items(), parts, strict=True)}
    return cut, {kind: laws[kind].quantile(cut[kind], width, depth, gain) for kind in laws}


def draw(
    init: Init, architecture: Architecture, depth: int, width: int, members: Sequence[int], root: int
) -> dict[str, Array]:
    """Return the parameters of the members, float64, by kind.

    Weights are (seeds, depth, n, n), biases and slopes (seeds, depth, n); for the read-out the depth is left
    out, and at width 1 every n.
    """
    gain = _gain(init, architecture)
    laws = {kind: law_of(init, kind) for kind in architecture.kinds}
    count = sum(width * width if kind.endswith("weight") else width for kind in laws)
    u = uniforms(root, architecture.name, members, "steps", 1 if architecture.shared else depth, count)
    cut, values = _read(u, laws, width, depth, gain)
    if init.kinks is not None:
        low, high = init.kinks
        rank = cut["bias"].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        values["bias"] = -values["weight"][..., 0] * (low + (high - low) * (rank + 0.5) / depth)
    if architecture.readout:
        laws = {
            "readout_weight": init.readout_weight or init.weight,
            "readout_bias": init.readout_bias or init.bias,
        }
        u = uniforms(root, architecture.name, members, "readout", 1, width * width + width)
        values |= {kind: value[:, 0] for kind, value in _read(u, laws, width, depth, gain)[1].items()}
    shapes = architecture.shapes(len(members), depth, width)
    return {kind: value.reshape(shapes[kind]) for kind, value in values.items()}
