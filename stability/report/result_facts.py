"""The main facts of a result about one network: names and values, a row each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from stability.folds import Count, PiecewiseLinear
from stability.jacobians import LyapunovExponents, Paths, SelfCheck, Spectrum
from stability.precision import FirstFailures, FirstNonfinite, ForwardErrors
from stability.reading import Layers
from stability.signals import (
    GradientNorms,
    GrowthFit,
    Hessian,
    LayerEffects,
    Propagation,
    Units,
)
from stability.slices import PiecewiseLinearSlice

Rows = list[tuple[str, ...]]
#: Of more layers than this the first and the last are shown.
_MOST_LAYERS = 40


@singledispatch
def facts(result: object) -> Rows:
    """Return the rows of the table of a result: a name and a value each, or for layers a row of cells.

    Raises:
        TypeError: for what is no result.
    """
    raise TypeError(f"there are no facts of a {type(result).__name__}")


def power_of(log: Tensor) -> str:
    """The median of natural logs, as a power of ten."""
    middle = float(log.double().flatten().median())
    words = {-math.inf: "0", math.inf: "infinite"}
    return words.get(middle, "unknown" if math.isnan(middle) else f"10^{middle / math.log(10):.2f}")


def names_of(layers: Sequence[str]) -> str:
    """How many layers there are, and the first and the last of them."""
    ends = f", {layers[0]} to {layers[-1]}" if len(layers) > 1 else f", {layers[0]}" if layers else ""
    return f"{len(layers)}{ends}"


def _of(shape: Sequence[int]) -> str:
    if len(shape) == 2:
        return f"{shape[0]} seeds, {shape[1]} points"
    return f"a batch of {' x '.join(map(str, shape))}" if shape else "one product"


def _check_words(check: SelfCheck) -> str:
    failed = int((~check.passed).sum())
    return f"FAILED in {failed} of {check.passed.numel()}" if failed else "passed"


@facts.register
def _spectrum(one: Spectrum) -> Rows:
    last = one.log_values[-1]
    ranks = one.ranks[-1]
    low, high = int(ranks.min()), int(ranks.max())
    rows: Rows = [
        ("layers", names_of(one.layers) if one.layers else str(one.depth)),
        ("over", _of(last.shape[:-1])),
        ("largest value of the whole product, median", power_of(last[..., 0])),
        ("condition number, median", power_of(one.log_condition[-1])),
        ("values that are not 0", f"{low if low == high else f'{low} to {high}'} of {one.sizes[-1]}"),
    ]
    if one.self_check is not None:
        rows.append(("self-check", _check_words(one.self_check)))
        rows.append(("a log value is within", f"{float(one.self_check.value_bound.max()):.1e}"))
    return rows


@facts.register
def _self_check(one: SelfCheck) -> Rows:
    rows: Rows = [("self-check", _check_words(one)), ("reversed product", f"{float(one.reversed.max()):.1e} at most")]
    if one.determinant is not None:
        rows.append(("determinant", f"{float(one.determinant.max()):.1e} at most"))
    rows.append(("a log value is within", f"{float(one.value_bound.max()):.1e}"))
    return rows


@facts.register
def _lyapunov(one: LyapunovExponents) -> Rows:
    shape = one.exponents.shape
    values = one.exponents.reshape(-1, shape[-1])[0].tolist()
    errors = one.standard_errors.reshape(-1, shape[-1])[0].tolist()
    of = "" if one.exponents[..., 0].numel() == 1 else " at the first"
    rows: Rows = [("layers", f"{one.depth}, of them left out {one.burn_in}"), ("over", _of(shape[:-1]))]
    for number, (value, error) in enumerate(list(zip(values, errors, strict=True))[:5], start=1):
        rows.append((f"exponent {number} of {shape[-1]}{of}", f"{value:+.4g} ± {error:.1g}"))
    return rows


@facts.register
def _paths(one: Paths) -> Rows:
    rows: Rows = [
        ("layers", names_of(one.layers) if one.layers else str(one.depth)),
        ("over", _of(one.log_norms.shape[1:])),
        ("path lengths", f"0 to {len(one.log_norms) - 1}"),
        ("strength of a branch, root mean square, median", power_of(one.log_strength / 2)),
    ]
    undecided = int(one.undecided.sum())
    if len(one.log_norms) > one.depth and not undecided:
        low, high = (int(level.median()) for level in one.quantiles((0.05, 0.95)))
        expected = float((2 * one.log_branches).sigmoid().sum(dim=0).median())
        rows.append(("mean path length, median", f"{float(one.mean_length.median()):.4g}"))
        rows.append(("with random signs", f"{expected:.4g}"))
        rows.append(("90 % of the energy", f"lengths {low} to {high}"))
    return [*rows, ("undecided coefficients", f"{undecided} of {one.undecided.numel()}")]


@facts.register
def _effects(one: LayerEffects) -> Rows:
    middle = one.log_relative.median(dim=1).values
    most = one.sets[int(middle.argmax())]
    return [
        ("layers", names_of(one.layers)),
        ("over", _of(one.log_changes.shape[1:])),
        ("cases", f"{len(one.sets)}, {one.done}"),
        ("relative change of the output, median", power_of(middle)),
        ("least", power_of(middle.min())),
        ("most", f"{power_of(middle.max())}, {', '.join(one.layers[number] for number in most[:3])}"),
    ]


@facts.register
def _hessian(one: Hessian) -> Rows:
    rows: Rows = [
        ("parameters", str(one.parameters)),
        ("seeds", str(len(one.members))),
        ("loss, median", f"{float(one.loss.median()):.4g}"),
        ("largest eigenvalue, median", f"{float(one.eigenvalues[:, 0].median()):.4g}"),
        ("smallest", f"{float(one.eigenvalues[:, -1].median()):.4g}"),
        ("negative, median", f"{int(one.negative.median())} of {one.eigenvalues.shape[1]}"),
        ("not told from zero, median", str(int(one.zeros.median()))),
    ]
    if one.complete:
        rows.append(("condition number, median", f"{float(one.condition.median()):.4g}"))
    if not one.agrees.all():
        rows.append(("differs from finite differences by", f"{float(one.against_differences.max()):.1g}"))
    return rows


@facts.register
def _propagation(one: Propagation) -> Rows:
    rows: Rows = [
        ("layers", names_of(one.layers)),
        ("over", _of(one.log_norms.shape[1:])),
        ("size of the state before the first, median", power_of(one.log_norms[0])),
        ("size of the state after the last, median", power_of(one.log_norms[-1])),
    ]
    if one.correlations[-1].numel():
        first, last = (float(one.correlations[layer].median()) for layer in (0, -1))
        rows.append(("correlation of two points, median", f"{first:.3f} before the first, {last:.3f} after the last"))
    return rows


@facts.register
def _gradient_norms(one: GradientNorms) -> Rows:
    rows: Rows = [
        ("layers", names_of(one.layers)),
        ("seeds", str(len(one.members))),
        ("loss, median", f"{float(one.loss.double().median()):.4g}"),
    ]
    for quantity in ("input", "parameters"):
        if quantity in one.log_norms and one.present[quantity].any():
            there = one[quantity][one.present[quantity]]
            words = f"{power_of(there[-1])} at the last layer, {power_of(there[0])} at the first"
            rows.append((f"gradient of the {'state' if quantity == 'input' else quantity}, median", words))
    rows.append(("dead seeds", str(int(one.dead.sum()))))
    if one.missing:
        more = ", ..." if len(one.missing) > 3 else ""
        rows.append((f"{len(one.missing)} parameters without a gradient", ", ".join(one.missing[:3]) + more))
    return rows


@facts.register
def _growth(one: GrowthFit) -> Rows:
    rows: Rows = [("quantity", f"{one.quantity} along {one.along}"), ("found", one.verdict)]
    if one.best is not None:
        rows.append(("best law", f"{one.best.shape}, spread {one.best.spread}"))
    if one.rate is not None and one.interval is not None:
        rows.append((f"rate a {one.along}", f"{one.rate:+.4g} ({one.interval[0]:+.4g} to {one.interval[1]:+.4g})"))
    return [*rows, ("members alive", f"{one.alive} of {one.seeds}")]


@facts.register
def _units(one: Units) -> Rows:
    rows: Rows = [("layers", names_of(one.layers)), ("over", f"{len(one.members)} seeds, {one.points} points")]
    for kind in ("dead", "dormant", "saturated"):
        shares = one.share(kind).nan_to_num(nan=-1.0).amax(dim=1)
        worst = int(shares.argmax())
        if float(shares[worst]) >= 0:
            where = f", in {one.layers[worst]}" if float(shares[worst]) > 0 else ""
            rows.append((f"{kind} units", f"{100 * float(shares[worst]):.0f} % at most{where}"))
    return rows


@facts.register
def _failures(one: FirstFailures) -> Rows:
    rows: Rows = [("layers", str(one.depth)), ("seeds", str(len(one.members)))]
    first = one.first()
    for place, name in enumerate(one.formats):
        for which, quantity in enumerate(one.quantities):
            layers = first[place, which]
            failed = layers[layers > 0].double()
            if len(failed):
                share = f"fail for {100 * len(failed) / len(layers):.0f} %"
                rows.append((f"{name} {quantity}", f"{share}, median after {failed.median():.0f} layers"))
            elif (layers == 0).any():
                rows.append((f"{name} {quantity}", "do not fail"))
    return rows


@facts.register
def _errors(one: ForwardErrors) -> Rows:
    rows: Rows = [("layers", names_of(one.layers)), ("seeds", str(len(one.members)))]
    for name in one.formats:
        rows.append((f"right digits after the last in {name}", f"{float(one.digits(name)[-1].median()):.1f}"))
    if one.narrow:
        rows.append(("modules that work in a narrower format", ", ".join(one.narrow[:3])))
    return rows


@facts.register
def _count(one: Count) -> Rows:
    rows: Rows = []
    for name, held in (("folds", one.folds), ("turns", one.turns), ("regions", one.regions)):
        if held is None:
            continue
        numbers = sorted(int(number) for number in np.ravel(np.asarray(held, dtype=object)))
        if len(numbers) == 1:
            rows.append((name, str(numbers[0])))
        else:
            rows.append((name, f"{numbers[0]} to {numbers[-1]}, median {numbers[(len(numbers) - 1) // 2]}"))
    seeds = np.size(one.folds)
    return [*([("seeds", str(seeds))] if seeds > 1 else []), *rows, ("decisions left open", str(one.undecided))]


@facts.register
def _function(one: PiecewiseLinear) -> Rows:
    low, high = map(float, one.interval)
    rows: Rows = [("interval", f"{low:g} to {high:g}"), ("pieces", str(len(one.knots) - 1))]
    return [*rows, ("folds", str(len(one.folds()))), ("shape of a value", str(tuple(one.shape)))]


@facts.register
def _slice(one: PiecewiseLinearSlice) -> Rows:
    counts = one.count()
    rows: Rows = [
        ("over", "a parallelogram" if one.plane.rectangle else "a triangle"),
        ("regions", str(counts.regions)),
    ]
    rows += [("folds", str(counts.folds)), ("shape of a value", str(tuple(one.shape)))]
    return [*rows, ("decisions left open", str(one.undecided))]


@facts.register
def _layers(one: Layers) -> Rows:
    rows: Rows = []
    for layer in one:
        name = layer.name if layer.is_cut else f"{layer.name} (not separated)"
        shape = tuple(layer.shape) if isinstance(layer.shape, torch.Size) else layer.shape
        share = f"{layer.count / one.total:.1%}" if one.total else ""
        rows.append((name, layer.kind, str(shape), str(layer.count), share))
    if len(rows) > _MOST_LAYERS:
        half = _MOST_LAYERS // 2
        rows[half:-half] = [(f"and {len(rows) - 2 * half} more", "", "", "", "")]
    return [("layer", "kind", "state after it", "parameters", "share"), *rows]


@facts.register
def _nonfinite(one: FirstNonfinite) -> Rows:
    where = "outside of the model's modules" if one.module is None else one.module or "the model itself"
    rows: Rows = [
        ("cause", f"{one.cause}: {one.why}"),
        ("operation", f"{one.operation}, {one.direction} pass"),
        ("module", where + (f", call {one.call}" if one.call > 1 else "")),
    ]
    if one.line:
        rows.append(("line", one.line))
    rows.append(("not finite", f"{one.count} of {one.size} numbers, the first at {one.index}"))
    return [*rows, ("reaches", one.reaches)]
