"""In which order a step takes its affine maps, activations, normalisations and the addition of the bypass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stability.foundation.checks import check_name

#: What a step is made of. What stands before "add" is the branch.
PARTS = ("map", "activation", "norm", "add")
Parts = tuple[str, ...]


def _between(maps: int) -> Parts:
    """An activation after every map but the last, and after an only one: the article's."""
    active = ("map", "norm", "activation")
    return (*active, "add") if maps == 1 else (*active * (maps - 1), "map", "add")


#: The named orders, by the number of maps, with a place for every normalisation. "between" is that of the article, the
#: others are the rows of figure 4 of He et al. 2016, "Identity mappings in deep residual networks".
ORDERS: dict[str, Callable[[int], Parts]] = {
    "between": _between,
    "original": lambda maps: (
        *("map", "norm", "activation") * (maps - 1),
        "map",
        "norm",
        "add",
        "activation",
    ),
    "before_addition": lambda maps: (*("map", "norm", "activation") * maps, "add"),
    "pre_activation": lambda maps: (*("activation", "map", "norm") * maps, "add"),
    "full_pre_activation": lambda maps: (*("norm", "activation", "map") * maps, "add"),
}

#: What "norm" may do: to a state (..., n), over its n numbers.
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer": lambda h: h - h.mean(dim=-1, keepdim=True),
    "rms": lambda h: h,
}
#: Added to the mean square before its root is taken, as torch does.
EPSILON = 1e-5


def normalise(h: Tensor, norm: str, epsilon: Tensor | float = EPSILON, scale: Tensor | float = 1.0) -> Tensor:
    """Return c h / sqrt(mean square of c h + epsilon), h less its mean for "layer", without trained numbers.

    Args:
        h: (..., n).
        norm: a name in `NORMS`.
        epsilon, scale: epsilon, and c, broadcast against (..., 1).
    """
    # Formats of two bytes in float32, as torch does: in float16 the square of 256 is infinite.
    wide = h.float() if h.dtype in (torch.float16, torch.bfloat16) else h
    centred = NORMS[norm](wide) * scale
    return (centred * (centred.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()).to(h.dtype)


def parts_of(order: str | Sequence[str], maps: int, norm: str | None) -> Parts:
    """Return the parts of a step in their order.

    Raises:
        ValueError: for an unknown order or part, no branch, more or less than one addition, another number of maps, and
            a normalisation that has no place, or a place without one.
    """
    if isinstance(order, str):
        parts = ORDERS[check_name("order", order, ORDERS)](maps)
        return parts if norm is not None else tuple(part for part in parts if part != "norm")
    parts = tuple(check_name("part of an order", part, PARTS) for part in order)
    if parts.count("add") != 1 or "map" not in parts[: parts.index("add")]:
        raise ValueError(f"order is {parts}: expected one 'add', and before it a branch with at least one 'map'")
    if parts.count("map") != maps:
        raise ValueError(f"order has {parts.count('map')} maps and maps is {maps}: let them agree")
    if ("norm" in parts) != (norm is not None):
        raise ValueError(f"norm is {norm!r} and order is {parts}: expected a 'norm' in the one with the other")
    return parts
