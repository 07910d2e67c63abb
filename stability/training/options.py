"""How a run of training is to go."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from stability.foundation.checks import check_integer, check_number, check_positive


class MethodOptions(TypedDict, total=False):
    """What a method may be told by name; see `stability.train`."""

    rate: float
    clip: float
    adam_iterations: int
    homotopy: float
    start: int
    least_slope: float | None


@dataclass(frozen=True)
class Options:
    """What `st.train` is asked for; see there. `iterations` are the method's, after `adam_iterations` of Adam."""

    iterations: int
    rate: float
    clip: float
    adam_iterations: int
    homotopy: float
    start: int
    least_slope: float

    def share(self, iteration: int) -> float:
        """The share of the target in what is fitted at an iteration of the method, the rest being the identity."""
        length = self.homotopy * self.iterations
        return min(1.0, (iteration + 1) / length) if length > 0 else 1.0


def check_options(method: str, iterations: int, given: MethodOptions) -> Options:
    """Return all options, those that are not given as they are by default.

    Raises:
        TypeError: for an option that there is not.
        ValueError: for one that would have no effect, and for values out of their range.
    """
    known = MethodOptions.__annotations__
    for name in given:
        if name not in known:
            others = "iterations, checkpoint, every, resume, on_iteration, progress"
            raise TypeError(f"train has no option {name!r}: it takes {', '.join(known)}, and beside them {others}")
    adam = method == "adam" or given.get("adam_iterations", 0)
    without_effect = {
        "start": method != "growth" and "it is the number of steps that growth begins with",
        "adam_iterations": method == "adam" and given.get("adam_iterations") and "use iterations",
        "rate": not adam and "it is Adam's, of which there are no iterations: see adam_iterations",
        "clip": not adam and "it is Adam's, of which there are no iterations: see adam_iterations",
    }
    for name, why in without_effect.items():
        if name in given and why:
            raise ValueError(f"{name} has no effect with method {method!r}: {why}")
    least_slope = given.get("least_slope")
    return Options(
        iterations=check_integer("iterations", iterations, 1),
        rate=check_positive("rate", given.get("rate", 0.01)),
        clip=check_positive("clip", given.get("clip", 1.0)),
        adam_iterations=check_integer("adam_iterations", given.get("adam_iterations", 0), 0),
        homotopy=check_number("homotopy", given.get("homotopy", 0.0), 0, 1),
        start=check_integer("start", given.get("start", 1), 1),
        least_slope=-math.inf if least_slope is None else check_number("least_slope", least_slope, maximum=1),
    )
