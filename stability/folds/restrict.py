"""A network along a line, as a piecewise-linear function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from stability.folds.bends import hinge
from stability.folds.check_by_tensors import SPREAD, check_by_tensors
from stability.folds.domains import Domain
from stability.folds.enumerate_table import enumerate_table
from stability.folds.following import following
from stability.folds.infinite_numbers import name_what_is_not_finite, named_if_not_finite
from stability.folds.kinks_met import IdleKnot, Kinks, idle_knot, recorded
from stability.folds.lines import Line, line_of
from stability.folds.members import members_of
from stability.folds.perceptrons import restrict_layers
from stability.folds.pieces import NO_LIMIT, TooManyKnots, TooMuchMemory, insert, most_bytes
from stability.folds.piecewise import PiecewiseLinear
from stability.folds.places import Places
from stability.folds.rational import fast_rational
from stability.folds.replay import in_doubt, settle, writing
from stability.foundation.arguments import door
from stability.foundation.checks import check_finite, check_integer, check_positive, check_table
from stability.foundation.formats import ROUNDOFF
from stability.networks import Chain

#: What may be followed along a line, and, a seed at a time, what then is: a table or what can be called.
Followable = Chain | NDArray[np.float64] | Tensor | Sequence[Sequence[float]] | Callable[..., Tensor]
Followed = NDArray[np.float64] | Callable[..., Tensor]

# How many arrays as large as the numbers of a function an operation works with at a time.
_COPIES = 8
# On how many stretches of the line a network is followed once more, before it is followed along all of it.
_MENDED_AT_MOST = 64
# Windows end at a place that no kink of round numbers falls on.
_CUT = SPREAD


class LineTooLong(ValueError):
    """A network takes more memory along a line than it may."""


def tables_of(net: object) -> tuple[NDArray[np.float64], bool] | None:
    """Return the step tables (seeds, rows, 6) of a chain or a table, and whether there are several; None for others."""
    if isinstance(net, Chain):
        if net.width != 1:
            raise ValueError(
                f"the chain has width {net.width}: only chains of width 1 are followed along a line; write it as a "
                "torch module of Linear layers and activations"
            )
        table = net.table()  # of which nobody else has a copy
        check_finite("the table (seed, row, column)", table)
        return table, True
    if isinstance(net, np.ndarray | Tensor | list | tuple):
        array = net.detach().cpu().numpy() if isinstance(net, Tensor) else np.asarray(net)
        if array.ndim == 2:
            return check_table(array[None]), False
        return check_table(array), True
    return None


@door
def restrict(
    net: Followable, line: Line | Domain, exact: bool = False, window: int | None = None, memory: float = 4.0
) -> Any:
    """Return what a network does along a line: the function t -> net(line(t)), knots, values and slopes.

    There is a knot wherever the activation pattern changes; `simplify()` keeps those where the function bends. In
    float64 every decision (which side of 0 a pre-activation is on inside a piece) is held against a bound of its
    rounding error. Where this leaves some open a module is followed again in rational numbers, on that stretch of the
    line alone, as long as it takes no more than 2e7 products in all, or 4e5 without python-flint; `f.undecided` says
    how many are open then.

    Args:
        net: a `Chain`, step tables (seeds, rows, 6), one table (rows, 6), or a piecewise-linear `nn.Module` in eval
            mode, of any floating dtype (its parameters are read as float64, which is exact).
        line: an interval (low, high), `st.segment(start, end)`, or any `PiecewiseLinear`; or `st.plane(p, q, r)`. A
            module that takes (batch, 1) may be given an interval; the batch of one is then taken off the result.
        exact: rational arithmetic throughout, for small networks; faster with python-flint.
        window: bound the memory: return an iterator over functions on adjacent parts of the line, in order, none of
            which had more than this many knots at any layer (scalar or not). `st.count` adds them up.
        memory: in GiB. A network that takes more along the line is refused; with `window` its parts are made smaller.
            `st.count` does so by itself.

    Returns:
        A `PiecewiseLinear`; a list of them for a chain or tables (seeds, rows, 6); an iterator with `window`. Over a
        plane a `PiecewiseLinearSlice`.

    Raises:
        TypeError: for a network that is not piecewise linear, with the module's name and what works.
        ValueError: for a line that does not fit, values that leave float64's range, and more memory than allowed.

    >>> import torch, stability as st
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).double()
    >>> f = st.restrict(model, (-3, 3))
    >>> x = torch.linspace(-3, 3, 100, dtype=torch.float64)
    >>> bool((f(x) - model(x[:, None])[:, 0]).abs().max() < 1e-14)
    True
    """
    if isinstance(line, Domain):
        return _over(net, line, exact, window, memory)
    line = line_of(line)
    members = members_of(net)
    found = tables_of(net) if members is None else None
    if found is None and not callable(net):
        raise TypeError(
            f"net is a {type(net).__name__}: expected a Chain, a step table or a piecewise-linear torch module"
        )
    followed: list[Followed] = [net] if found is None else list(found[0])  # type: ignore[list-item]
    followed = followed if members is None else [*members]
    check_positive("memory", memory)
    if window is not None:
        window = check_integer("window", window, 4)
        if len(followed) > 1:
            raise ValueError(f"there are {len(followed)} seeds: windows are of one function; give one table (rows, 6)")
        return windows(followed[0], line, exact, window, memory)
    try:
        functions = [_along(one, line, exact, None, memory) for one in followed]
    except TooMuchMemory:
        raise LineTooLong(
            f"along the line the network takes more than memory={memory:g} GiB: give window=, which returns parts of "
            "the line one after the other, or a larger memory; st.count takes parts by itself"
        ) from None
    return functions if members or (found is not None and found[1]) else functions[0]


def _over(net: Followable, domain: Domain, exact: bool, window: int | None, memory: float) -> object:
    """Return a module on what is no line."""
    check_positive("memory", memory)
    if window is not None:
        raise ValueError(f"window is {window}: windows are parts of a line; give a smaller part of the plane instead")
    if isinstance(net, Chain) or not callable(net):
        raise TypeError(
            f"net is a {type(net).__name__}: expected a piecewise-linear torch module; a chain of width 1 and a step "
            "table take an interval (low, high)"
        )
    return domain.restricted(net, exact, memory)


def windows(net: Followed, line: PiecewiseLinear, exact: bool, window: int, memory: float) -> Iterator[PiecewiseLinear]:
    """Halve what remains of the line until it fits."""
    low, end = line.interval
    high = end
    while True:
        part = line
        if (low, high) != line.interval:
            # Rational numbers are of the line itself, which a part of it in float64 misses by a rounding.
            part = line.to_exact().restrict(Fraction(low), Fraction(high)) if exact else line.restrict(low, high)
        try:
            if len(part.knots) > window:
                raise TooManyKnots
            f = _along(net, part, exact, window, memory, line)
        except TooManyKnots:
            width = high - low
            cut = low + width * (Fraction(_CUT) if isinstance(width, Fraction) else _CUT)
            if not low < cut < high:
                raise ValueError(
                    f"between {low} and {high} there are more than {window} knots, or more than {memory:g} GiB of "
                    "numbers, and floats cannot part them: give a larger window or memory"
                ) from None
            high = cut
            continue
        yield f
        if high == end:
            return
        # The next window is tried somewhat wider than the last.
        low, high = high, min(end, high + 2 * (high - low))


def _along(
    net: Followed,
    line: PiecewiseLinear,
    exact: bool,
    limit: int | None,
    memory: float,
    whole: PiecewiseLinear | None = None,
) -> PiecewiseLinear:
    """Return a network along a line, which may be a part of a whole one."""
    token = most_bytes.set(memory * 2**30 / _COPIES)
    try:
        f = _run(net, line.to_exact(fast_rational()) if exact else line, limit, line if whole is None else whole)
    finally:
        most_bytes.reset(token)
    f = f.to_exact(Fraction) if exact else f
    f._limit = None  # it is a function now, and followed no more
    return f


def _run(net: Followed, line: PiecewiseLinear, limit: int | None, whole: PiecewiseLinear) -> PiecewiseLinear:
    if isinstance(net, np.ndarray):
        if line.shape:
            raise ValueError(
                f"the line has values of shape {tuple(line.shape)}: a chain of width 1 takes an interval (low, high)"
            )
        if line.exact:
            with recorded() as kinks:
                f = _chain_rule(net, _without_origins(line), limit)
            return _with_origins(f, kinks)
        if _is_identity(line):
            return enumerate_table(net, float(line.knots[0]), float(line.knots[1]), limit)
        low, high = float(line.values.min()), float(line.values.max())
        if low == high:
            raise ValueError(f"the line is constant, {low}: expected one that moves")
        return enumerate_table(net, low, high, limit)(_without_origins(line))
    if isinstance(net, nn.Module) and not line.exact and _is_straight(line):
        fast = restrict_layers(net, line, limit)
        if fast is not None:
            _check_result(net, fast)
            if not fast.undecided:
                return fast
            if len(in_doubt(fast)) <= _MENDED_AT_MOST:
                f = _mended(net, line, whole, fast, limit)
                check_by_tensors(net, line, f, points=6 if limit is None else 3)
                return f
    if isinstance(net, type):
        raise TypeError(f"net is the class {net.__name__}: expected an instance, {net.__name__}(...)")
    f = _settled(net, line, whole, limit)
    check_by_tensors(net, line, f, points=6 if limit is None else 3)
    return f


def _follow(net: Callable[..., Tensor], line: PiecewiseLinear, limit: int | None) -> PiecewiseLinear:
    """Give a line to a network, which answers with what it does along it."""
    given = _with_zero(line)
    given._limit = NO_LIMIT if limit is None else limit
    knot = IdleKnot(int(given._places.births[1])) if len(given.knots) > len(line.knots) else None
    token = idle_knot.set(knot)
    try:
        with following(), recorded() as kinks, named_if_not_finite(net):
            out = net(given if line.shape else given._shaped((1, 1)))
    finally:
        idle_knot.reset(token)
    if knot is not None and knot.idle and isinstance(out, PiecewiseLinear):
        out = out._without(np.flatnonzero(out._places.births == knot.birth))
    if not line.shape and isinstance(out, PiecewiseLinear) and out.shape[:1] == (1,):
        out = out._shaped(() if out.shape.numel() == 1 else out.shape[1:])
    if not isinstance(out, PiecewiseLinear):
        raise TypeError(
            f"the network makes a {type(out).__name__} of the line: expected one tensor that depends on the input; "
            "wrap it so that it returns one"
        )
    _check_result(net, out)
    return _with_origins(out, kinks)


def _without_origins(line: PiecewiseLinear) -> PiecewiseLinear:
    """Return another function, a line whose own folds are no unit's of what is to follow it."""
    f = line._again()
    f._places = f._places.of(None)
    return f


def _with_origins(f: PiecewiseLinear, kinks: Kinks) -> PiecewiseLinear:
    """Return what a network makes of a line, with the units whose kinks its knots are."""
    places = f._places
    f._places = places.of(kinks.origins(lambda: places.births))
    return f


def _mended(
    net: Callable[..., Tensor], line: PiecewiseLinear, whole: PiecewiseLinear, fast: PiecewiseLinear, limit: int | None
) -> PiecewiseLinear:
    """Follow the network operation by operation where the bounds of the compiled loops leave it open what it does."""
    return settle(fast, lambda low, high: _settled(net, line.restrict(low, high), whole, limit), 0.0)


def _settled(
    net: Callable[..., Tensor], line: PiecewiseLinear, whole: PiecewiseLinear, limit: int | None
) -> PiecewiseLinear:
    """Follow the network along a part of a whole line, once more in rational numbers where rounding leaves it open."""
    written = [0.0]
    token = writing.set(written)
    try:
        f = _follow(net, line, limit)
    finally:
        writing.reset(token)
    if f.exact:
        return f

    def exactly(low: float, high: float) -> PiecewiseLinear:
        part = whole.to_exact().restrict(Fraction(low), Fraction(high))
        return _follow(net, part.to_exact(fast_rational()), limit)

    return settle(f, exactly, written[0])


def _with_zero(line: PiecewiseLinear) -> PiecewiseLinear:
    """Return a line with a knot where it passes 0, if it does: there a network without biases bends all at once.

    The place may be no float64; the values there are, being 0.
    """
    f = _without_origins(line)
    if line.exact or len(line.knots) != 2 or not line.shape:
        return f
    p, q = (values.ravel() for values in line.values)
    used = np.flatnonzero((p != 0) | (q != 0))
    first = int(used[np.argmax(np.abs(p[used]))])
    if not p[first] * q[first] < 0:
        return f
    u, v = Fraction(p[first]), Fraction(q[first])
    # Rounded first, so that other lines cost nothing.
    apart = np.abs(p * q[first] - q * p[first]) > 4 * ROUNDOFF * np.abs(p * q[first])
    if apart.any() or any(Fraction(p[i]) * v != Fraction(q[i]) * u for i in used):
        return f
    low, high = map(Fraction, line.knots)
    place = float(low + (high - low) * (u / (u - v)))
    if not low < place < high:
        return f
    g = insert(f, np.array([0]), Places(np.array([place]), ROUNDOFF * abs(place)), planted=True)
    g._data[1], g._errors[1] = 0.0, 0.0
    return g


def _check_result(net: Followed, f: PiecewiseLinear) -> None:
    """Raise where the function is not finite, with the parameter that is not, if there is one."""
    if f.exact or np.isfinite(f._data).all():
        return
    name_what_is_not_finite(net)
    raise ValueError("the network's values leave float64's range along the line: expected finite numbers")


def _is_straight(line: PiecewiseLinear) -> bool:
    """Whether a line is x itself on an interval, or a straight one of the numbers of one input."""
    if not line.shape:
        return _is_identity(line)
    return len(line.knots) == 2 and len(line.shape) <= 2 and line.shape.numel() == line.shape[-1]


def _is_identity(line: PiecewiseLinear) -> bool:
    return len(line.knots) == 2 and bool(line._data[:2].tolist() == line.knots.tolist())


def _chain_rule(table: NDArray[np.float64], h: PiecewiseLinear, limit: int | None) -> PiecewiseLinear:
    h._limit = limit
    # The formula of `step_formula` for functions, whose activation is a hinge and puts in knots.
    for skip, weight, bias, outer_weight, outer_bias, slope in table.tolist():
        h = h * skip + hinge(h * weight + bias, 0.0, slope, 1.0) * outer_weight + outer_bias
    return h
