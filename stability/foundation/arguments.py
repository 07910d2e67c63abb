"""What an argument of a public function may be, by its name: one table, held against every call at the door.

What a value must be beyond its kind (an interval, a name, a shape) is checked where it is used, by `checks`.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from numbers import Real
from typing import ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")

#: Raises where the value of the argument of a name is of no kind that it may be.
Rule = Callable[[str, object], None]


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} is {_shown(value)}: expected True or False")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} is {_shown(value)}: expected a text")


def _path(name: str, value: object) -> None:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {_shown(value)}: expected a path, as a text or a pathlib.Path")


def _sign(name: str, value: object) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value not in (-1, 1):
        raise ValueError(f"{name} is {_shown(value)}: expected 1 or -1, the sign of the state, or None")


def _dimension(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer)):
        raise TypeError(f"{name} is {_shown(value)}: expected the number of a dimension, or None")


def _source(name: str, value: object) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | str):
        raise TypeError(
            f"{name} is {_shown(value)}: expected the number or the name of an input, or the name of a module"
        )


def _device(name: str, value: object) -> None:
    if isinstance(value, torch.device):
        return
    try:
        if not isinstance(value, str):
            raise RuntimeError
        torch.device(value)
    except RuntimeError:
        raise TypeError(f"{name} is {_shown(value)}: expected a torch.device, or a text such as 'cpu'") from None


def _callable(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} is {_shown(value)}: expected a function")


def _workers(name: str, value: object) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name} is {_shown(value)}: expected a number of processes, 0 for this one, or None")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is {_shown(value)}: expected a number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: expected a finite number")


def _share(name: str, value: object) -> None:
    _number(name, value)
    if not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{name} is {value}: expected a number from 0 to 1")


def check_numbers(name: str, value: object) -> None:
    """Let real numbers pass, in arrays too, but no bools, which are a mistake here, and no texts."""
    if _is_real(value):
        if isinstance(value, int) and value.bit_length() > 1023:
            raise ValueError(f"{name} is an integer of {value.bit_length()} bits: expected a number that float64 holds")
        return
    if isinstance(value, torch.Tensor):
        real = not (value.is_complex() or value.dtype == torch.bool or value.is_meta)
        kind = "f" if real else "O"
    elif isinstance(value, Sequence) or hasattr(value, "__array__"):
        try:
            array = np.asarray(value)
            kind = (
                "f" if array.dtype.kind == "O" and array.size and all(map(_is_real, array.flat)) else array.dtype.kind
            )
        except ValueError:
            kind = "O"
    else:
        kind = "O"
    if kind not in "fiu":
        raise TypeError(f"{name} is {_shown(value)}: expected real numbers, or an array of them")


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def _axes(name: str, value: object) -> None:
    from matplotlib.axes import Axes

    if not isinstance(value, Axes):
        raise TypeError(f"{name} is {_shown(value)}: expected matplotlib Axes, or None for a new figure")


def _colour(name: str, value: object) -> None:
    import matplotlib as mpl
    from matplotlib.colors import Colormap, is_color_like

    known = isinstance(value, Colormap) or is_color_like(value) or (isinstance(value, str) and value in mpl.colormaps)
    if not known:
        raise ValueError(f"{name} is {_shown(value)}: expected a colour, or the name of a colour map, of matplotlib")


def _shown(value: object) -> str:
    """A value as a message shows it: what is long by its type and shape."""
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim:
        return f"a {type(value).__name__} of {value.dtype} with shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


RULES: dict[str, Rule] = {
    **dict.fromkeys(("alive", "check", "distances", "exact", "parameters", "predicted", "progress", "train"), _flag),
    **dict.fromkeys(("births", "draw_folds", "rectangle", "replace_damaged", "retry_failed"), _flag),
    **dict.fromkeys(("checkpoint", "folder", "path", "resume", "store"), _path),
    **dict.fromkeys(("along", "label", "name", "quantity", "version"), _text),
    **dict.fromkeys(("budget", "every", "level", "memory", "power", "share", "size", "threshold", "top"), _number),
    **dict.fromkeys(("batch_dim", "unit_dim"), _dimension),
    "alpha": _share,
    "ax": _axes,
    "colour": _colour,
    "device": _device,
    **dict.fromkeys(("make", "message", "on_iteration"), _callable),
    "workers": _workers,
    "source": _source,
    "sign": _sign,
    **dict.fromkeys(
        (
            "bias_scale",
            "co_active",
            "correlation",
            "other_variance",
            "outer_bias_scale",
            "outer_scale",
            "ratio",
            "shares",
            "slope",
            "squares",
            "start",
            "strength",
            "variance",
            "weight_scale",
        ),
        check_numbers,
    ),
}


def door(function: Callable[P, R]) -> Callable[P, R]:
    """Hold the arguments of a public function against RULES before it runs. None passes where it is the default."""
    signature = inspect.signature(function)
    rules = {name: RULES[name] for name in signature.parameters if name in RULES}
    defaults = {name: signature.parameters[name].default for name in rules}
    in_order = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    by_place = [name for name, one in signature.parameters.items() if one.kind in in_order]
    fewest = sum(signature.parameters[name].default is inspect.Parameter.empty for name in by_place)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        # Short calls take microseconds, of which the signature would take several.
        fits = not kwargs and fewest <= len(args) <= len(by_place)
        given = dict(zip(by_place, args, strict=False)) if fits else signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            if isinstance(value, torch.Tensor):
                if value.is_meta:
                    raise TypeError(f"{name} is on the device meta, which holds no numbers: expected another device")
            elif isinstance(value, int) and abs(value) >= 2**64 and rules.get(name) is not check_numbers:
                raise ValueError(f"{name} is an integer of {value.bit_length()} bits: expected one that 64 bits hold")
        for name, rule in rules.items():
            if name in given and not (given[name] is None and defaults[name] is None):
                rule(name, given[name])
        return function(*args, **kwargs)

    return checked
