"""Rules of max pooling: the largest entry of a window bends where it changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stability.folds.largest import largest
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.dimensions import check_spatial
from stability.folds.torch_rules.registry import Rule, rule

Window = int | Sequence[int]


def _of_windows(f: PiecewiseLinear, index: NDArray[np.intp], out: Sequence[int]) -> PiecewiseLinear:
    """Return the largest entries of windows (places, windows) of each channel, of the spatial shape `out`."""
    lead = f.shape[: -len(out)]
    channels = np.arange(lead.numel()) * (f.shape.numel() // lead.numel())
    return largest(f, (channels[:, None] + index[:, None]).reshape(len(index), -1), (*lead, *out))


def _max_pool(pool: Callable[..., Tensor], dims: int) -> Rule:
    def pooled(
        f: PiecewiseLinear,
        kernel_size: Window,
        stride: Window | None = None,
        padding: Window = 0,
        dilation: Window = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> PiecewiseLinear:
        if return_indices:
            refuse("max pooling with indices", "they jump along the line; use return_indices=False")
        size, step, pad, gap = (
            (v,) * dims if isinstance(v, int) else tuple(v)
            for v in (kernel_size, kernel_size if stride is None or stride == [] else stride, padding, dilation)
        )
        check_spatial(f, dims)
        spatial = f.shape[-dims:]
        # Which input entry each window sees at each of its places. Torch itself lays the windows.
        entry = torch.arange(spatial.numel(), dtype=torch.float64).reshape(1, 1, *spatial)
        out = pool(entry, size, step, pad, gap, ceil_mode).shape[2:]
        places = np.stack(np.meshgrid(*(np.arange(s) for s in size), indexing="ij"), -1).reshape(-1, dims)
        corners = np.stack(np.meshgrid(*(np.arange(o) for o in out), indexing="ij"), -1).reshape(-1, dims)
        seen = corners[None] * step - np.array(pad) + places[:, None] * np.array(gap)
        inside = ((seen >= 0) & (seen < np.array(spatial))).all(-1)
        flat = (np.clip(seen, 0, np.array(spatial) - 1) * np.cumprod((1, *spatial[:0:-1]))[::-1]).sum(-1)
        # A place outside repeats the window's first place inside, which changes no maximum.
        first = flat[np.argmax(inside, axis=0), np.arange(flat.shape[1])]
        return _of_windows(f, np.where(inside, flat, first), out)

    return pooled


def _adaptive(dims: int) -> Rule:
    def pooled(f: PiecewiseLinear, output_size: object, return_indices: bool = False) -> PiecewiseLinear:
        if return_indices:
            refuse("max pooling with indices", "they jump along the line; use return_indices=False")
        check_spatial(f, dims)
        spatial = f.shape[-dims:]
        given = output_size if isinstance(output_size, tuple | list) else (output_size,) * dims
        out = [int(n) if size is None else int(size) for size, n in zip(given, spatial, strict=True)]
        # Window i of o on n places goes from i n / o, rounded down, to (i + 1) n / o, rounded up.
        sides = [[range(i * n // o, -(-(i + 1) * n // o)) for i in range(o)] for o, n in zip(out, spatial, strict=True)]
        numbers = np.arange(spatial.numel()).reshape(spatial)
        seen = [numbers[np.ix_(*window)].ravel() for window in itertools.product(*sides)]
        most = max(map(len, seen))
        index = np.stack([np.pad(window, (0, most - len(window)), mode="edge") for window in seen], 1)
        return _of_windows(f, index, out)

    return pooled


for _dims in (1, 2, 3):
    _name = f"max_pool{_dims}d"
    rule(_name, f"_{_name}", f"{_name}_with_indices")(_max_pool(getattr(functional, _name), _dims))
    rule(f"adaptive_{_name}", f"adaptive_{_name}_with_indices")(_adaptive(_dims))
