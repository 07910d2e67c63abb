"""Why a number is not finite: the operation of a forward pass that made the first one, in words."""

from __future__ import annotations

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.reading.forward_recording import Recording

#: What gives NaN from numbers, by the operation as autograd names it, without what it adds to the name.
_UNDEFINED = {
    "Log": "the logarithm of a negative number",
    "Log2": "the logarithm of a negative number",
    "Log10": "the logarithm of a negative number",
    "Log1P": "the logarithm of a negative number",
    "Sqrt": "the root of a negative number",
    "Rsqrt": "the root of a negative number",
    "Pow": "a broken power of a negative number",
    "Div": "0 / 0",
    "Acos": "the arc cosine of a number beyond 1",
    "Asin": "the arc sine of a number beyond 1",
    "Acosh": "the inverse of a hyperbolic cosine below 1",
    "Atanh": "the inverse of a hyperbolic tangent beyond 1",
    "Softmax": "a softmax of nothing but -inf",
    "LogSoftmax": "a softmax of nothing but -inf",
}
#: What gives an infinite number without leaving the range.
_POLE = {
    "Log": "the logarithm of 0",
    "Log2": "the logarithm of 0",
    "Log10": "the logarithm of 0",
    "Log1P": "the logarithm of 0",
    "Rsqrt": "one over the root of 0",
    "Reciprocal": "one over 0",
    "Div": "a division by 0, or by a number so small that {dtype} overflows",
    "Atanh": "the inverse of a hyperbolic tangent at 1",
    "Logit": "the logarithm of 0",
}


def why_not_finite(recording: Recording) -> str:
    """Return words for the operation that made the first number that is not finite; they end a message."""
    for (node, _), seen in recording.seen.items():
        if not seen.intact or seen.values.isfinite().all():
            continue
        # SqrtBackward0, AddmmBackward0, ...: what the operation is called.
        operation = node.name().split("Backward")[0]
        return f"it comes from {operation}, {_words(operation, seen.values)}"
    return "it is made where autograd does not follow: look at what the layer does there"


def _words(operation: str, values: Tensor) -> str:
    dtype, nan = values.dtype, bool(values.isnan().any())
    name = operation.removeprefix("_")
    if nan and not values.isinf().any():
        words = _UNDEFINED.get(name, "which takes numbers for which it is not defined (0 times inf, inf - inf)")
        return f"{words}: change what is calculated there, or what enters it"
    if name in _POLE:
        return f"{_POLE[name].format(dtype=dtype)}: change what is calculated there, or what enters it"
    return f"which {overflows(dtype)}"


def overflows(dtype: torch.dtype) -> str:
    """Return words for a number that is too large for a format."""
    largest = Format(dtype.to_real() if dtype.is_complex else dtype).largest
    return f"overflows {dtype}, which ends at {largest:.3g}: scale the weights or the points, or take a wider dtype"
