"""How far a run in a floating-point format is from the network, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erfinv
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_name, check_positive
from stability.foundation.formats import FORMATS, Format, check_formats, format_name
from stability.foundation.log_norms import combine, log_norm
from stability.foundation.shown import Shown
from stability.foundation.threads import side_by_side
from stability.networks import Chain
from stability.precision.format_runs import FormatRun, run_in
from stability.precision.kernels import error_bounds, expected_errors
from stability.reading import Layers
from stability.reading.chain_reading import Steps, StepTable
from stability.reading.in_format import format_of, in_format, with_points_in_its_format
from stability.reading.network import Network
from stability.reading.read import AnyNetwork, is_chain, read

if TYPE_CHECKING:
    import xarray

Arrays = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True, repr=False)
class ForwardErrors(Shown):
    """The relative errors of the states of runs in several formats, in natural logarithms.

    Attributes:
        log_errors: by format, float64 (layers + 1, seeds): log of |computed - exact| / |exact|, L2 norms over the
            points (and neurons) before the first layer and after each. 0 and above: all digits are lost. inf where
            the run overflows, -inf where it is exact.
        log_bounds: by format, the same shape: what the error can be at most; empty where there is no bound.
        log_probable_bounds: by format, the same shape: what the error exceeds with a probability of at most 1 - level,
            if roundings are random; no proof, and empty where there are no bounds.
        level: of the probable bounds.
        log_norms: (layers + 1, seeds), log of |exact|.
        formats: the formats.
        layers: the names of the layers.
        members: the member numbers.
        narrow: the names of modules that work in a narrower format than float64 whatever the network's dtype is, such
            as a norm that converts to float32. The exact states have them in float64, where the network lets them.
        log_narrow_errors: (layers + 1, seeds), the error of the network in float64 that comes of it alone; None where
            there are no such modules, or where the exact states have it too, by an unknown amount.
        log_output_errors: of a module that is held against a reference, the relative error of each tensor that it
            returns, by name, as the layers lead to one of them alone; empty where the two return different shapes.
    """

    log_errors: dict[str, Tensor]
    log_bounds: dict[str, Tensor]
    log_probable_bounds: dict[str, Tensor]
    level: float
    log_norms: Tensor
    formats: tuple[str, ...]
    layers: tuple[str, ...]
    members: tuple[int, ...]
    narrow: tuple[str, ...] = ()
    log_narrow_errors: Tensor | None = None
    log_output_errors: dict[str, float] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.layers)

    def digits(self, dtype: str | torch.dtype) -> Tensor:
        """Return how many decimal digits are right, (layers + 1, seeds), 0 where none is."""
        name = check_name("format", format_name(dtype), self.formats)
        return (-self.log_errors[name] / math.log(10)).clamp(min=0)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {self.digits(name)[-1].median():.1f}" for name in self.formats)
        if self.log_narrow_errors is not None:
            digits = float((-self.log_narrow_errors[-1] / math.log(10)).clamp(min=0).median())
            more = f" and {len(self.narrow) - 1} more" if len(self.narrow) > 1 else ""
            last += f"; float64 itself would have {digits:.1f}, as {self.narrow[0]}{more} work in a narrower format"
        elif self.narrow:
            last += f"; the reference too works in a narrower format in {', '.join(self.narrow[:3])}"
        if len(self.log_output_errors) > 1:
            digits_of = ((name, max(-error / math.log(10), 0.0)) for name, error in self.log_output_errors.items())
            last += f"; of the outputs: {', '.join(f'{name} {digits:.1f}' for name, digits in digits_of)}"
        of = f"{self.depth} layers, {len(self.members)} seeds"
        return f"ForwardErrors({of}; right digits after the last: {last})"

    def to_dataset(self) -> xarray.Dataset:
        """Return the errors and bounds with dims (dtype, depth, seed), depth 0 before the first layer."""
        import xarray

        over = ("dtype", "depth", "seed")
        data: dict[str, object] = {
            "log_errors": (over, torch.stack([self.log_errors[name] for name in self.formats]).numpy())
        }
        if self.log_bounds:
            for key, bounds in (("log_bounds", self.log_bounds), ("log_probable_bounds", self.log_probable_bounds)):
                data[key] = (over, torch.stack([bounds[name] for name in self.formats]).numpy())
        coords = {"dtype": list(self.formats), "depth": np.arange(self.depth + 1), "seed": list(self.members)}
        data["log_norms"] = (("depth", "seed"), self.log_norms.numpy())
        if self.log_narrow_errors is not None:
            data["log_narrow_errors"] = (("depth", "seed"), self.log_narrow_errors.numpy())
        return xarray.Dataset(data, coords, {"level": self.level})


@door
def forward_error(
    net: AnyNetwork,
    x: object,
    formats: Sequence[str | torch.dtype] | None = None,
    layers: str | Sequence[str] | Layers | None = None,
    *,
    source: str | int | None = None,
    batch_dim: int | None = 0,
    level: float = 0.99,
    reference: AnyNetwork | None = None,
) -> ForwardErrors:
    """Return how far the states of a run in each format are from those of the network, layer by layer.

    The network is the one of the parameters and points given, the run has both rounded to the format, and every
    operation too. The exact states of a piecewise-linear chain of width 1 are taken in double-double arithmetic with an
    exponent of its own (106 bits, no underflow), those of other networks in float64, so that float64 itself can only
    be asked of the former. A module that converts to float32 inside whatever the network's dtype, as many norms and
    softmaxes do, is kept from it in the exact run, and named; a number that it takes from its dtype, such as an
    epsilon, is then that of float64.

    For the former there also is a bound that the error never exceeds: the error before a step times the largest slope
    within its reach, plus what the step's own roundings did, which is at most a few units of roundoff times the size
    of what it adds up. So it is condition times unit roundoff, step after step, with the roundings that happened
    (running error analysis, Higham 2002, section 3.3); it knows no cancellation among them: it grows as L u, with L the
    number of layers and u the unit roundoff, where the error grows as sqrt(L) u, and once L u nears 1 it says nothing.

    Beside it stands what the error is unlikely to exceed if roundings are independent and of mean zero (Higham and Mary
    2019), so that errors add up in squares: with g the slope of the step at the exact state and s^2 the variance that
    the step's own roundings have, each uniform to the spacing of the format,

        V_l = g^2 V_(l-1) + s^2,        probable bound = q sqrt(V_l),

    q the number that the modulus of a standard normal variable exceeds with probability 1 - level, 2.58 at 99 %; over
    several points V is summed, and the share that exceeds the bound is the largest if they all err alike. Where the
    bound of the roundings that happened is the smaller one, it is taken. This is no
    proof: roundings may conspire, and to first order an error takes no other branch than the exact state.

    Args:
        net: a chain, any module, or callables that follow one another.
        x: the points, or what the network takes: a tensor, a tuple of positional inputs, a dictionary of keyword ones.
        formats: names or torch dtypes out of float16, bfloat16, float32, float64; without, all that can be asked.
        layers, source, batch_dim: how a module is read, see `st.layers`.
        level: of the probable bound, between 0 and 1.
        reference: another network, layer by layer of the same shapes, that `net` is held against as both are, each in
            its own format: a port from elsewhere, a compiled or quantised twin, weights of another checkpoint. What
            comes back then has one format, that of `net`, and no bounds.

    Raises:
        ValueError, TypeError: for an unknown format, a level out of range, a module that draws random numbers, float64
            where there is no reference, a reference in float64 that leaves the range, a `reference` of other layers or
            with formats beside it, and as `propagation`.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    >>> errors = st.forward_error(st.Chain("residual2_prelu", depth=50, seeds=4), x)
    >>> bool((errors.log_errors["float32"] <= errors.log_bounds["float32"]).all())
    True
    >>> (errors.log_errors["float32"] <= errors.log_probable_bounds["float32"]).double().mean().item() >= 0.99
    True

    Where does a port go astray?

    >>> original = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)))
    >>> port = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(5)))
    >>> _ = port.load_state_dict(original.state_dict())
    >>> with torch.no_grad():
    ...     _ = port[3].bias.add_(0.1)
    >>> found = st.forward_error(port, torch.randn(2, 4), reference=original)
    >>> (found.log_errors["float32"][:, 0] > -10).tolist()
    [False, False, False, False, True, True]
    """
    if not 0 < check_positive("level", level) < 1:
        raise ValueError(f"level is {level}: expected a probability between 0 and 1, such as 0.99")
    chosen = None if formats is None else check_formats(formats)
    reading = read(net, x, layers, source, batch_dim)
    if reference is not None:
        if chosen is not None:
            raise ValueError(
                "formats and reference exclude each other: both networks run in the formats that they have"
            )
        return _against(reading, read(reference, x, None if is_chain(reference) else layers, source, batch_dim), level)
    if isinstance(reading, StepTable):
        return of_step_table(reading, check_formats(list(FORMATS)) if chosen is None else chosen, level)
    chosen = check_formats([name for name in FORMATS if name != "float64"]) if chosen is None else chosen
    if any(one.name == "float64" for one in chosen):
        raise ValueError(
            "float64 has no reference of higher precision here: only piecewise-linear chains of width 1 have one; "
            "leave float64 out of formats"
        )
    exact, whole = _exact_run(reading)
    found = of_runs(exact, {one.name: run_in(in_format(reading, one.dtype)) for one in chosen}, level)
    if not exact.narrow or not whole:
        return replace(found, narrow=exact.narrow)
    itself = of_runs(exact, {"float64": run_in(in_format(reading, torch.float64))}, level)
    return replace(found, narrow=exact.narrow, log_narrow_errors=itself.log_errors["float64"])


def _against(reading: Steps | Network, other: Steps | Network, level: float) -> ForwardErrors:
    """Return how far one network is from another, each in its own format."""
    own, exact = (run_in(with_points_in_its_format(one)) for one in (reading, other))
    if len(own.layers) != len(exact.layers):
        raise ValueError(
            f"the network has {len(own.layers)} layers, {own.layers[0]} to {own.layers[-1]}, and the reference "
            f"{len(exact.layers)}, {exact.layers[0]} to {exact.layers[-1]}: name layers= that both have"
        )
    for name, one, twin in zip(("before the first layer", *own.layers), own.states, exact.states, strict=True):
        if one.shape != twin.shape:
            raise ValueError(
                f"at {name} the network has {tuple(one.shape)} numbers and the reference {tuple(twin.shape)}: they are "
                "not the same network"
            )
    dtype = format_of(reading)
    found = of_runs(exact, {format_name(dtype): own}, level)
    apart = _output_errors(own.outputs, exact.outputs)
    return replace(found, layers=own.layers, members=own.members, log_output_errors=apart)


def _output_errors(own: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the log of the relative error of each output, none where the two networks return different shapes."""
    if [one.shape for one in own.values()] != [one.shape for one in exact.values()]:
        return {}
    errors = {}
    for (name, one), twin in zip(own.items(), exact.values(), strict=True):
        wide, fine = _wide(one)[None], _wide(twin)[None]
        errors[name] = float(_relative(log_norm(wide - fine, 1), log_norm(fine, 1)))
    return errors


def _wide(tensor: Tensor) -> Tensor:
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().cpu()


def run_in_float64(reading: Steps | Network) -> FormatRun:
    """Return the run in float64 that the others are held against.

    Raises:
        ValueError: where it leaves the range, or draws random numbers.
    """
    return _exact_run(reading, inside=True)[0]


def _exact_run(reading: Steps | Network, inside: bool = False) -> tuple[FormatRun, bool]:
    """Return the run in float64, and whether all of it is, which not every network lets be."""
    wide = in_format(reading, torch.float64)
    try:
        return run_in(wide, exact=True, inside=inside), True
    except (ValueError, TypeError, RuntimeError):
        if isinstance(wide, Steps):
            raise
        return run_in(wide, exact=True, only_look=True, inside=inside), False


def of_runs(exact: FormatRun, runs: Mapping[str, FormatRun], level: float) -> ForwardErrors:
    """Return how far runs in some formats, by name, are from the exact one."""
    sizes = torch.stack([log_norm(state, 1).cpu() for state in exact.states])
    errors = {}
    for name, run in runs.items():
        apart = [log_norm(a.double() - b.double(), 1).cpu() for a, b in zip(run.states, exact.states, strict=True)]
        errors[name] = _relative(torch.stack(apart), sizes)
    return ForwardErrors(errors, {}, {}, level, sizes, tuple(runs), exact.layers, exact.members)


def _relative(error: Tensor, sizes: Tensor) -> Tensor:
    """Return the log of an error relative to sizes that may be zero: no error is none."""
    return torch.where(error == -math.inf, -math.inf, error - sizes)


def log_reach(level: float) -> float:
    """Return the log of what the modulus of a standard normal variable exceeds with probability 1 - level."""
    return math.log(math.sqrt(2) * erfinv(level))


def log_expected_errors(
    net: Chain, table: NDArray[np.float64], points: NDArray[np.float64], sizes: Tensor, one: Format
) -> Tensor:
    """Return the log of the root of V in `forward_error`, summed over the points, relative to the states.

    Args:
        net: a chain of width 1.
        table: its steps, (seeds, depth, 6).
        points: (points,).
        sizes: log of the exact states, (depth + 1, seeds), the shape of what comes back too.
        one: the format.
    """
    logs = np.empty((table.shape[1] + 1, len(table), len(points)))
    outer = net.architecture.maps == 2 or net.factor != 1
    numbers = (one.roundoff, one.log2_least, outer, net.architecture.skip not in (0, 1))
    side_by_side(
        lambda first, last: expected_errors.log_expected_errors(first, last, table, points, *numbers, logs),
        len(table),
        200.0 * logs.size,
    )
    return _relative(combine(torch.from_numpy(logs), 2), sizes)


def of_step_table(reading: StepTable, formats: list[Format], level: float) -> ForwardErrors:
    """Return the errors and bounds of a chain of width 1."""
    points, table, net = reading.points, reading.steps, reading.chain
    shape = (net.depth + 1, len(table), len(points))
    errors, bounds, probable, sizes = {}, {}, {}, torch.empty(0)
    for one in formats:
        states = in_format(reading, one.dtype).states(graph=False, check=False)
        computed = torch.stack([state.tensor.double() for state in states]).cpu().numpy()
        log_sizes, log_errors, log_bounds = np.empty(shape), np.empty(shape), np.empty(shape)
        arrays = (log_sizes, log_errors, log_bounds)

        def run(first: int, last: int, inputs: Arrays = (table, points, computed), results: Arrays = arrays) -> None:
            error_bounds.forward_errors(first, last, *inputs, *results)

        side_by_side(run, len(table), 200.0 * log_sizes.size)
        sizes, error, bound = (combine(torch.from_numpy(a), 2) for a in arrays)
        errors[one.name] = _relative(error, sizes)
        bounds[one.name] = _relative(bound, sizes)
        expected = log_expected_errors(net, table, points, sizes, one)
        probable[one.name] = torch.minimum(expected + log_reach(level), bounds[one.name])
    names = tuple(one.name for one in formats)
    return ForwardErrors(errors, bounds, probable, level, sizes, names, reading.layers, reading.members)
