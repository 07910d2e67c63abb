"""The first number that is not finite, as a result."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stability.foundation.shown import Shown
from stability.reading.nonfinite_origin import Origin
from stability.reading.nonfinite_search import Question, search


@dataclass(frozen=True, repr=False)
class FirstNonfinite(Shown):
    """Where the first number that is not finite is made.

    Attributes:
        operation: in plain words, such as "addmm", "softmax" or "layer norm"; in the backward pass that of the forward
            pass whose gradient it belongs to.
        kernel: the operation of torch that gave the number, such as "div".
        direction: "forward" or "backward".
        module: the full name of the module whose forward called it, "" for the network itself, None where no module
            did, as in a loss. In the backward pass the module whose forward called the operation.
        call: the number of the call of that module, from 1.
        line: the file and line of the user's code, outside torch and this package; None where there is no such line.
        inputs: the largest finite magnitude of each of its tensors.
        cause: "overflow" of the format; "invalid", such as 0 / 0, inf - inf or the root of a negative number; "pole",
            such as the logarithm of 0; "mask", infinities written on purpose that leave nothing to average over or
            reach a result; "given", it came in with a parameter, an input or what the loss takes.
        why: a sentence.
        log10_magnitude: the log10 of the largest number that did not fit, by float64; None for other causes.
        dtype: the format of what it gave.
        index: of the first number that is not finite in what it gave.
        count, size: how many are not finite, and how many there are.
        reaches: what descends from it: "the output", "the loss", "the gradient of the parameter 0.weight and 3 more".
    """

    operation: str
    kernel: str
    direction: str
    module: str | None
    call: int
    line: str | None
    inputs: tuple[float, ...]
    cause: str
    why: str
    log10_magnitude: float | None
    dtype: torch.dtype
    index: tuple[int, ...]
    count: int
    size: int
    reaches: str

    @classmethod
    def of(cls, origin: Origin, reaches: str) -> FirstNonfinite:
        """Return the result of a search."""
        return cls(
            operation=origin.place.name,
            kernel=origin.kernel,
            direction="backward" if origin.backward else "forward",
            module=origin.place.module,
            call=origin.place.call,
            line=origin.place.line,
            inputs=origin.inputs,
            cause=origin.cause,
            why=origin.why,
            log10_magnitude=origin.log10_magnitude,
            dtype=origin.dtype,
            index=origin.index,
            count=origin.count,
            size=origin.size,
            reaches=reaches,
        )

    def __repr__(self) -> str:
        where = "outside of the model's modules" if self.module is None else f"in {self.module or 'the model itself'}"
        if self.call > 1:
            where += f", call {self.call}"
        at = f", {self.line}" if self.line else ""
        took = ", ".join(f"{size:.3g}" for size in self.inputs) or "no tensors"
        return (
            f"FirstNonfinite({self.cause}: {self.operation} {where}, {self.direction} pass{at}\n"
            f"  {self.why}\n"
            f"  {self.count} of {self.size} numbers, the first at {self.index}; it took numbers up to {took}; "
            f"it reaches {self.reaches})"
        )


def first_of(question: Question) -> FirstNonfinite | None:
    """Return where the first number that is not finite is made, None where all results are finite."""
    found = search(question)
    return None if found is None else FirstNonfinite.of(*found)
