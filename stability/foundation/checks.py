"""What the public doors check, once, and what they say when a value is refused.

Every message names what was got, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence, Set

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

#: The six numbers of a step h -> skip h + outer_weight phi(weight h + bias) + outer_bias,
#: with phi(z) = z for z > 0 and slope z otherwise, in the order of a step table's columns.
COLUMNS = ("skip", "weight", "bias", "outer_weight", "outer_bias", "slope")


_LARGEST = sys.float_info.max  # an integer beyond it is no float, and ends math.isfinite


def check_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`, else raise with the known names and the nearest."""
    known = list(known)
    if isinstance(name, str) and name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(map(repr, known))}{hint}")


def check_integer(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` as an int within [minimum, maximum]."""
    bounds = f"an integer >= {minimum}" + ("" if maximum is None else f" and <= {maximum}")
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}: expected {bounds}")
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f"{name} is {value}: expected {bounds}")
    return int(value)


def check_positive(name: str, value: object) -> float:
    """Return `value` as a finite float above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} is {value!r}: expected a finite number above 0")
    if not -_LARGEST <= value <= _LARGEST or value <= 0:
        raise ValueError(f"{name} is {value}: expected a finite number above 0")
    return float(value)


def check_number(name: str, value: object, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return `value` as a finite float within [minimum, maximum]."""
    bounds = "" if minimum == -math.inf else f" from {minimum:g}"
    bounds += "" if maximum == math.inf else f" to {maximum:g}" if bounds else f" of at most {maximum:g}"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} is {value!r}: expected a finite number{bounds}")
    if not -_LARGEST <= value <= _LARGEST or not minimum <= value <= maximum:
        raise ValueError(f"{name} is {value}: expected a finite number{bounds}")
    return float(value)


def check_members(seeds: int | Sequence[int] | torch.Tensor) -> tuple[int, ...]:
    """Return the member numbers: range(seeds) for an int, else the sequence itself, without repeats."""
    if isinstance(seeds, int | np.integer):
        return tuple(range(check_integer("seeds", seeds, 1)))
    if isinstance(seeds, torch.Tensor) and not seeds.is_meta:
        seeds = seeds.tolist()
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds is {seeds!r}: expected how many, or a sequence of member numbers")
    members = tuple(check_integer("a member number in seeds", s, 0, 2**32 - 1) for s in seeds)
    if not members:
        raise ValueError("seeds is an empty sequence: expected at least one member number")
    if len(set(members)) < len(members):
        repeated = sorted({s for s in members if members.count(s) > 1})
        raise ValueError(f"seeds repeats the member numbers {repeated}: give each one once")
    return members


def check_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Return a finite interval (low, high) with low < high."""
    try:
        if isinstance(interval, str | bytes | Set | Mapping) or any(isinstance(end, str) for end in interval):
            raise TypeError
        low, high = map(float, interval)
    except OverflowError:
        raise ValueError("an end of the interval is out of float64's range: expected two finite ends") from None
    except (TypeError, ValueError, RuntimeError):  # the last of tensors on the device meta
        raise TypeError(f"the interval is {interval!r}: expected two numbers (low, high)") from None
    if not math.isfinite(high - low):
        raise ValueError(f"the interval is ({low}, {high}): expected two finite ends at a finite distance")
    if low >= high:
        raise ValueError(f"the interval ({low}, {high}) is empty or reversed: expected low < high")
    return low, high


def check_points(x: object, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return `x` if it is a tensor (points,) at width 1, or (points, width), of the network's dtype."""
    shape = "(points,)" if width == 1 else f"(points, {width})"
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x is a {type(x).__name__}: expected a tensor of shape {shape}; use torch.as_tensor")
    fits = x.ndim == 1 if width == 1 else x.ndim == 2 and x.shape[1] == width
    if not fits:
        raise ValueError(f"x has shape {tuple(x.shape)}: a chain of width {width} takes {shape}")
    if len(x) == 0:
        raise ValueError("x has no points: expected at least one")
    if x.dtype != dtype:
        raise TypeError(f"x is {x.dtype} and the chain is {dtype}: convert one of them, x.to({dtype})")
    if x.device != device:
        raise ValueError(f"x is on {x.device} and the chain is on {device}: move one of them, x.to({device})")
    return x


def check_dtype(dtype: object) -> torch.dtype:
    """Return `dtype` if it is a floating dtype of torch."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype is {dtype!r}: expected a floating dtype such as torch.float64")
    return dtype


#: Kinds of device that have no float64.
WITHOUT_FLOAT64 = {"mps"}


def check_float64(*owners: object) -> None:
    """Raise if a tensor, or a parameter of a module, is on a device that cannot hold float64."""
    for owner in owners:
        tensors = owner.parameters() if isinstance(owner, torch.nn.Module) else [owner]
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor) and tensor.device.type in WITHOUT_FLOAT64:
                raise TypeError(
                    f"the device {tensor.device} has no float64, in which norms are measured: move the network and "
                    'the points to the CPU first, net.to("cpu") and x.to("cpu")'
                )


def check_finite(name: str, values: torch.Tensor | NDArray[np.generic]) -> None:
    """Raise if there is a NaN or an infinity in `values`, naming the first place."""
    if isinstance(values, torch.Tensor):
        wide = torch.complex128 if values.is_complex() else torch.float64
        array = values.detach().to("cpu", wide).numpy()
    else:
        array = values
    finite = np.isfinite(array)
    if finite.all():
        return
    bad = np.argwhere(~finite)
    place = tuple(int(i) for i in bad[0])
    raise ValueError(
        f"{name} has {len(bad)} values that are not finite, the first {array[place]} at {place}: "
        "expected finite numbers only"
    )


def check_table(table: ArrayLike | torch.Tensor) -> NDArray[np.float64]:
    """Return a step table as float64 (seeds, rows, 6), every entry finite."""
    if isinstance(table, torch.Tensor):
        if table.is_meta:
            raise TypeError("the table is on the device meta, which holds no numbers: expected another device")
        table = table.detach().cpu()
        table = (table.double() if table.dtype.is_floating_point else table).numpy()
    given = np.asarray(table)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"the table holds {given.dtype}: expected real numbers")
    array = np.array(given, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != len(COLUMNS) or 0 in array.shape:
        raise ValueError(
            f"the table has shape {array.shape}: expected (seeds, rows, {len(COLUMNS)}) with the columns "
            f"{', '.join(COLUMNS)}, at least one seed and one row"
        )
    check_finite("the table (seed, row, column)", array)
    return array
