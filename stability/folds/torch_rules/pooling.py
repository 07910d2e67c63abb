"""Rules of pooling: a window's mean is a linear map, and its largest entry bends where it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stability.folds.largest import largest
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.refuse import refuse
from stability.folds.torch_rules.dimensions import check_spatial, on_batches
from stability.folds.torch_rules.linear_maps import linear_map
from stability.folds.torch_rules.registry import Rule, rule

Window = int | Sequence[int]


def _mean_pool(pool: Callable[..., Tensor], dims: int) -> Rule:
    def pooled(f: PiecewiseLinear, *args: object, **kwargs: object) -> PiecewiseLinear:
        apply = on_batches(f, dims, lambda x: pool(x, *args, **kwargs))
        # A divisor of the caller's own may be smaller than the window.
        norm = float(apply(torch.ones((1, *f.shape), dtype=torch.float64)).max())
        return linear_map(f, apply, norm, f.shape.numel(), mean=True)

    return pooled


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
        spatial, lead = f.shape[-dims:], f.shape[:-dims]
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
        index = np.where(inside, flat, first)
        offsets = np.arange(lead.numel()) * spatial.numel()
        return largest(f, (offsets[:, None] + index[:, None]).reshape(len(index), -1), (*lead, *out))

    return pooled


rule("avg_pool1d")(_mean_pool(functional.avg_pool1d, 1))
rule("avg_pool2d")(_mean_pool(functional.avg_pool2d, 2))
rule("adaptive_avg_pool1d")(_mean_pool(functional.adaptive_avg_pool1d, 1))
rule("adaptive_avg_pool2d")(_mean_pool(functional.adaptive_avg_pool2d, 2))
rule("max_pool1d", "_max_pool1d", "max_pool1d_with_indices")(_max_pool(functional.max_pool1d, 1))
rule("max_pool2d", "_max_pool2d", "max_pool2d_with_indices")(_max_pool(functional.max_pool2d, 2))
