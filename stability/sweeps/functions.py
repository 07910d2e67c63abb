"""The function of a sweep: what it is called, whether it takes the cells, and whether its code has changed."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import CodeType

from stability.sweeps.cells import Cell, words_of


def function_name(function: Callable[..., object], version: str = "") -> str:
    """Return the module and the qualified name; of a script its file's name, whether it runs or is imported.

    A partial function is called by what it is given as well.

    Raises:
        TypeError: where an object holds what its name does not tell, and no version tells it.
    """
    if isinstance(function, functools.partial):
        try:
            given = json.dumps([function.args, function.keywords], sort_keys=True)
        except TypeError:
            given = "..."
            _check_told(version, f"a partial with {function.args}, {function.keywords}")
        return f"{function_name(function.func, version)}({given})"
    plain = inspect.unwrap(function)
    if inspect.ismethod(plain) and not inspect.isclass(plain.__self__):
        _check_told(version, f"a method of a {type(plain.__self__).__name__}")
    elif not (inspect.isroutine(plain) or inspect.isclass(plain)):
        _check_told(version, f"a {type(plain).__name__}")
    module = getattr(function, "__module__", None) or "?"
    name = getattr(function, "__qualname__", type(function).__name__)
    if module in ("__main__", "__mp_main__"):
        file = getattr(sys.modules.get(module), "__file__", None)
        module = Path(file).stem if file else "__main__"
    return f"{module}.{name}"


def check_call(function: Callable[..., object], cell: Cell) -> None:
    """Raise TypeError for what is no function, or none of the names of a cell."""
    if not callable(function):
        raise TypeError(f"function is {function!r}: expected a function")
    try:
        inspect.signature(function).bind(**cell)
    except TypeError as error:
        raise TypeError(
            f"{function_name(function, 'any')} does not take the names of the grid, {words_of(cell)}: {error}"
        ) from None
    except ValueError:  # one of C, which has no signature
        return


def code_digest(function: Callable[..., object]) -> str:
    """Return a digest of a function's code, defaults and plain enclosed values; "" of what has no code.

    What it calls is not looked at, nor are comments. Another Python has another code.
    """
    plain = inspect.unwrap(function.func if isinstance(function, functools.partial) else function)
    code = getattr(plain, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    enclosed = []
    for cell in getattr(plain, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        enclosed.append(_plain(value))
    beside = [_plain(plain.__defaults__), _plain(plain.__kwdefaults__), *enclosed]
    words = repr([sys.version_info[:2], _code_words(code, plain.__doc__), beside])
    return blake2b(words.encode(errors="backslashreplace"), digest_size=16).hexdigest()


def _code_words(code: CodeType, text: str | None = None) -> list[object]:
    """Return what a code does, without the lines that it stands in and its own documentation."""
    constants = [
        _code_words(one) if isinstance(one, CodeType) else sorted(map(repr, one)) if isinstance(one, frozenset) else one
        for one in (None if text is not None and one == text else one for one in code.co_consts)
    ]
    return [code.co_code, code.co_names, code.co_varnames, repr(constants)]


def _plain(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return type(value).__name__


def _check_told(version: str, shown: str) -> None:
    if not version:
        raise TypeError(f"function is {shown}, whose values the store does not know: give a version= that tells them")
