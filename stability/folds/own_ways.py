"""What bends functions of a line has another way with functions of another domain, which say so by their class."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

S = ParamSpec("S")
T = TypeVar("T")


def own_way(function: Callable[S, T]) -> Callable[S, T]:
    """Let the class of the first argument have its own way to do this, in `own_ways` under the function's name."""
    name = function.__name__

    @wraps(function)
    def chosen(*args: S.args, **kwargs: S.kwargs) -> T:
        way = getattr(type(args[0]), "own_ways", {}).get(name)
        return function(*args, **kwargs) if way is None else cast(Callable[S, T], way)(*args, **kwargs)

    return chosen
