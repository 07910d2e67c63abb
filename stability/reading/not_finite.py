"""Why a number is not finite: the words for it, wherever it is met."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.reading.forward_recording import Recording

#: What gives NaN from numbers, by the plain name of the operation.
_UNDEFINED = {
    **dict.fromkeys(("log", "log2", "log10", "log1p"), "the logarithm of a negative number"),
    "sqrt": "the root of a negative number",
    "rsqrt": "the root of a negative number",
    "pow": "a broken power of a negative number",
    "div": "0 / 0",
    "acos": "the arc cosine of a number beyond 1",
    "asin": "the arc sine of a number beyond 1",
    "acosh": "the inverse of a hyperbolic cosine below 1",
    "atanh": "the inverse of a hyperbolic tangent beyond 1",
    **dict.fromkeys(("nll loss", "nll loss2d"), "the mean over targets that all are ignored, or of weight 0: 0 / 0"),
    **dict.fromkeys(
        ("mean", "mse loss", "l1 loss", "smooth l1 loss", "huber loss", "binary cross entropy"),
        "the mean of no numbers",
    ),
    **dict.fromkeys(("remainder", "fmod"), "a remainder of a division by 0"),
    **dict.fromkeys(("floor divide", "addcdiv"), "0 / 0"),
    **dict.fromkeys(
        ("linalg inv ex", "linalg solve ex", "linalg solve triangular"), "the inverse of a singular matrix"
    ),
    "erfinv": "the inverse of an error function beyond 1",
    "logit": "the logit of a number beyond 0 and 1",
    **dict.fromkeys(("var", "var mean", "std", "std mean"), "a variance over one number: 0 / 0"),
    **dict.fromkeys(
        ("layer norm", "group norm", "weight norm"),
        "a norm of numbers that are all the same, or all 0: 0 / 0",
    ),
    "batch norm": "numbers that are all the same over a variance of 0, or a variance below 0",
    **dict.fromkeys(("softmax", "log softmax"), "a softmax of nothing but -inf"),
}
#: What gives an infinite number without leaving the range.
_POLE = {
    **dict.fromkeys(("log", "log2", "log10", "log1p", "logit", "xlogy"), "the logarithm of 0"),
    "rsqrt": "one over the root of 0",
    "reciprocal": "one over 0",
    **dict.fromkeys(("div", "floor divide", "addcdiv"), "a division by 0"),
    "ctc loss": "no alignment: more targets than the input has room for",
    "pow": "a negative power of 0",
    "atanh": "the inverse of a hyperbolic tangent at 1",
    **dict.fromkeys(("linalg slogdet", "linalg det"), "the logarithm of a determinant of 0"),
    **dict.fromkeys(
        ("linalg inv ex", "linalg solve ex", "linalg solve triangular"), "the inverse of a singular matrix"
    ),
    **dict.fromkeys(
        (
            *("tan", "erfinv", "lgamma", "mvlgamma", "digamma", "polygamma"),
            *("special zeta", "special ndtri", "special log ndtr", "special entr"),
            *("special bessel y0", "special bessel y1", "special modified bessel k0", "special modified bessel k1"),
        ),
        "a pole",
    ),
}
#: What autograd and the kernels call otherwise.
_OTHER_NAMES = {
    "to copy": "conversion to another format",
    "copy": "conversion to another format",
    "batch norm legit": "batch norm",
    "cudnn batch norm": "batch norm",
    "fused rms norm": "rms norm",
    "mkldnn rnn layer": "lstm",
    "weight norm interface": "weight norm",
    "lift fresh": "as tensor",
    "fft c2c": "fft",
    "fft r2c": "fft",
    "fft c2r": "fft",
}


def plain_name(operation: str) -> str:
    """Return the name of an operation in plain words, from that of the kernel, or of the node in the graph.

    >>> plain_name("native_layer_norm"), plain_name("LogSoftmaxBackward0"), plain_name("exp_")
    ('layer norm', 'log softmax', 'exp')
    """
    name = re.sub(r"Backward\d*$", "", operation.rpartition("::")[2]).strip("_")
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
    name = re.sub(r"_(backward|forward)(_data)?$", "", name)
    name = name.removeprefix("native_").replace("_", " ").strip()
    if name.startswith("scaled dot product"):
        return "scaled dot product attention"
    return _OTHER_NAMES.get(name, name)


def has_pole(operation: str) -> bool:
    """Whether an operation, by its plain name, is infinite at some numbers."""
    return operation in _POLE


def undefined(operation: str, infinite: bool = True) -> str:
    """Return words for what an operation did that gave NaN; `infinite` says whether it may have taken inf."""
    default = "it takes numbers for which it is not defined" + (" (0 times inf, inf - inf)" if infinite else "")
    return _UNDEFINED.get(operation, default)


def pole(operation: str) -> str:
    """Return words for where an operation is infinite."""
    return _POLE.get(operation, "it is infinite there")


def why_not_finite(recording: Recording) -> str:
    """Return words for the operation that made the first number that is not finite; they end a message."""
    for (node, _), seen in recording.seen.items():
        if not seen.intact or seen.values.isfinite().all():
            continue
        operation = plain_name(node.name())
        return f"it comes from {operation}{_words(operation, seen.values)}"
    return "it is made where autograd does not follow: look at what the layer does there"


def _words(operation: str, values: Tensor) -> str:
    dtype, nan = values.dtype, bool(values.isnan().any())
    advice = "change what is calculated there, or what enters it"
    if nan and not values.isinf().any():
        return f": {undefined(operation)}; {advice}"
    if operation == "div":
        return f": {pole(operation)}, or by a number so small that {dtype} overflows; {advice}"
    if has_pole(operation):
        return f": {pole(operation)}; {advice}"
    return f", which {overflows(dtype)}"


def overflows(dtype: torch.dtype) -> str:
    """Return words for a number that is too large for a format."""
    return (
        f"overflows {dtype}, which ends at {largest(dtype):.3g}: scale the weights or the points, or take a wider dtype"
    )


def largest(dtype: torch.dtype) -> float:
    """Return the largest number of a format, of a complex one that of its parts."""
    return Format(dtype.to_real() if dtype.is_complex else dtype).largest
