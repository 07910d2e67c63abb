"""The floating-point formats: their names and their limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from stability.foundation.checks import check_name

#: The formats by name, from the coarsest.
FORMATS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Format:
    """The limits of a floating-point format; of a complex one those of its parts.

    Attributes:
        dtype: the format in torch.
    """

    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Its name, such as "float16"."""
        return format_name(self.dtype)

    @property
    def spacing(self) -> float:
        """From 1 to the next number."""
        return torch.finfo(self.dtype).eps

    @property
    def roundoff(self) -> float:
        """The largest relative error of an operation in the normal range, half the spacing above 1."""
        return self.spacing / 2

    @property
    def smallest(self) -> float:
        """The smallest normal number."""
        return torch.finfo(self.dtype).tiny

    @property
    def faint(self) -> float:
        """Below this a number, or the terms of a sum that made it, may have lost digits at the end of the range."""
        return self.smallest / self.spacing

    @property
    def largest(self) -> float:
        """The largest number."""
        return torch.finfo(self.dtype).max

    @property
    def largest_power(self) -> int:
        """A power of 2 by which a number of order 1 may be multiplied, either way, and is exact."""
        return 12 if self.largest < 1e5 else 100 if self.largest < 1e39 else 1000

    @property
    def log2_least(self) -> int:
        """The log2 of half the smallest subnormal number, the largest that rounds to zero; float64 cannot hold its own.

        It also is the largest absolute error of an operation below the normal range.
        """
        return round(math.log2(self.smallest) + math.log2(self.spacing)) - 1

    @property
    def log_least(self) -> float:
        """The natural logarithm of the largest number that rounds to zero."""
        return self.log2_least * math.log(2)


#: Of float64, in which all is calculated: the spacing above 1, half of it, and the smallest normal number.
SPACING, ROUNDOFF, SMALLEST = (
    Format(torch.float64).spacing,
    Format(torch.float64).roundoff,
    Format(torch.float64).smallest,
)


def coarsest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the one of the largest roundoff."""
    return max(dtypes, key=lambda dtype: Format(dtype).roundoff)


def finest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the one of the smallest roundoff."""
    return min(dtypes, key=lambda dtype: Format(dtype).roundoff)


def format_name(dtype: str | torch.dtype) -> str:
    """Return the name of a format, of a torch dtype as well."""
    return str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else repr(dtype)


def check_formats(formats: Sequence[str | torch.dtype]) -> list[Format]:
    """Return the formats of these names, or torch dtypes."""
    if isinstance(formats, str | torch.dtype):
        formats = (formats,)
    if not isinstance(formats, Sequence):
        raise TypeError(f"formats is {formats!r}: expected a list of some of {', '.join(FORMATS)}, or of torch dtypes")
    names = [format_name(dtype) for dtype in formats]
    if not names:
        raise ValueError(f"formats is empty: expected some of {', '.join(FORMATS)}")
    found = [check_name("floating-point format", name, FORMATS) for name in names]
    if len(set(found)) < len(found):
        raise ValueError(f"formats repeats a format: {', '.join(found)}")
    return [Format(FORMATS[name]) for name in found]
