"""Which floating-point format fails first, after how many layers, in what and how?

Question. A float16 number lies between 10^-5 and 10^5, a bfloat16 number has two to three digits. After how many layers
does a run of Peng's five chains in bfloat16, float16, float32 and float64 fail: in the states h_l (activations), in
dh_l/dx (products) or in dLoss/dh_l (gradients, counted from the output), and by overflow, underflow or lost digits? Do
the logarithms of a run that cannot leave the range say so beforehand? How does the forward error grow, and does its
bound hold? Is there a power of 2 by which to scale the loss that saves a run in float16?

Method. Chains of one neuron, freshly initialised, 9 points on (-3, 3), the loss is the mean of the output. Measured:
the chain is rounded to the format, and run forward, forward with a tangent, and backward in it. Predicted: from sums of
logarithms and the limits of the format; lost digits from roundings taken as random. The forward error is against
arithmetic of 106 bits, its bound from running error analysis. A scale exists for a member if the gradients of all its
states and parameters, times the scale, are in the normal range; some are tried in a run.

Reading. Top: the number of layers until the first failure, a row a format: circle activations, square products,
triangle gradients, which fail at once where the loss overflows; median over seeds, bar from 5 to 95 %, black tick:
median predicted. Open marks at the right edge: the median survives the whole depth. Left with torch's initialisation,
right without biases. Bottom, from the left: forward error against layer, median and 5-95 %, and the medians of the
bound (dashed) and of the one that holds with 99 % if roundings are random (dotted); the share of seeds of which the
prediction is right, to one layer or a hundredth of the depth, with a number where it is below 95 %; the share of seeds
for which a loss scale exists.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray

import stability as st

LABELS = {
    "plain_relu": "plain ReLU",
    "plain_prelu": "plain PReLU",
    "residual1_relu": "residual 1 ReLU",
    "residual2_relu": "residual 2 ReLU",
    "residual2_prelu": "residual 2 PReLU",
}
FORMATS = ("bfloat16", "float16", "float32", "float64")
PAIR = ("plain_prelu", "residual2_prelu")
INITS = ("pytorch", "uniform", "he")


@dataclass(frozen=True)
class Settings:
    """Which floating-point format fails first in a deep chain, where and how."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds and layers: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def mean_of_output(y: torch.Tensor) -> torch.Tensor:
    return y.mean(dim=1)


def first_failures(init: str, depth: int, seeds: int, root: int, x: torch.Tensor) -> xarray.Dataset:
    """Return the first failures of every architecture, with the shares of members that were predicted."""
    parts = []
    for name in LABELS:
        f = st.first_failure(st.Chain(name, depth, seeds=seeds, init=init, root=root), x, FORMATS)
        part = f.to_dataset()
        part["agreement"] = (("dtype", "quantity"), f.agreement.numpy())
        part["first"] = (("dtype", "quantity", "seed"), f.first().numpy())
        part["first_predicted"] = (("dtype", "quantity", "seed"), f.first(predicted=True).numpy())
        parts.append(part)
    data = xarray.concat(parts, xarray.IndexVariable("architecture", list(LABELS)), combine_attrs="identical")
    # Layer numbers are small, and seven digits are enough for the rest.
    layers = ("measured", "predicted", "first", "first_predicted", "digits_between")
    return data.assign({v: data[v].astype(np.int16 if v in layers else np.float32, keep_attrs=True) for v in data})


def forward_errors(
    depth: int, stride: int, seeds: int, root: int, x: torch.Tensor
) -> tuple[xarray.Dataset, xarray.Dataset]:
    """Return the errors of the pair with torch's initialisation, and how every bound does."""
    drawn, shape = [], (len(INITS), len(LABELS), len(FORMATS))
    counts = {name: np.zeros(shape, dtype=np.int64) for name in ("violations", "compared", "exceeded")}
    digits = {name: np.full(shape, np.nan) for name in ("error", "bound", "probable", "kept")}
    for i, init in enumerate(INITS):
        for a, name in enumerate(LABELS):
            e = st.forward_error(st.Chain(name, depth, seeds=seeds, init=init, root=root), x, FORMATS)
            if init == "pytorch" and name in PAIR:
                data = e.to_dataset()[["log_errors", "log_bounds", "log_probable_bounds"]].isel(
                    depth=slice(0, None, stride)
                )
                drawn.append(data.astype(np.float32))
            for f, dtype in enumerate(FORMATS):
                of_format = (v[dtype] / math.log(10) for v in (e.log_errors, e.log_bounds, e.log_probable_bounds))
                error, bound, probable = of_format
                # Where the truth is exactly zero a relative error says nothing, and an infinite bound is no bound.
                told = error.isfinite() & bound.isfinite()
                counts["violations"][i, a, f] = int((~(error <= bound)).sum())
                counts["compared"][i, a, f] = int(told.sum())
                counts["exceeded"][i, a, f] = int((error > probable)[told].sum())
                last, right = told[-1], told & (error < 0)
                if last.any():
                    digits["error"][i, a, f] = error[-1][last].median()
                    digits["bound"][i, a, f] = bound[-1][last].median()
                    digits["probable"][i, a, f] = probable[-1][last].median()
                if right.any():
                    digits["kept"][i, a, f] = (bound[right].clamp(max=0) / error[right]).median()
    coords = {"init": list(INITS), "architecture": list(LABELS), "dtype": list(FORMATS)}
    table = xarray.Dataset(
        {k: (tuple(coords), v) for k, v in (counts | digits).items()}, coords, {"depth": depth, "level": e.level}
    )
    return xarray.concat(drawn, xarray.IndexVariable("architecture", list(PAIR))), table


def gradient_range(depths: list[int], seeds: int, root: int, x: torch.Tensor) -> xarray.Dataset:
    """Return log2 of the least and the largest gradient of any state or layer's parameters, by depth.

    The least is that of parameters together, or of a state's points in root mean square, for that is what underflows
    in `first_failure`. The largest is a norm, which no number exceeds, and counts the output, where a backward run
    begins. A member of which all gradients are exactly zero has +inf and -inf.
    """
    shape = (len(LABELS), len(depths), seeds)
    least, largest = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    for a, name in enumerate(LABELS):
        chain = st.Chain(name, max(depths), seeds=seeds, root=root)
        for d, depth in enumerate(depths):
            g = st.gradient_norms(chain.prefix(depth), x, mean_of_output)
            states, parameters = g["input"], g["parameters"]
            logs = torch.cat([states - math.log(len(x)) / 2, parameters])
            least[a, d] = torch.where(logs == -math.inf, math.inf, logs).amin(dim=0) / math.log(2)
            # A chain whose layers have no gradient needs no scale, whatever the output has.
            most = torch.cat([states, parameters]).amax(dim=0)
            most = torch.where(most > -math.inf, torch.maximum(most, g.output), most)
            largest[a, d] = most / math.log(2)
    over = ("architecture", "depth", "seed")
    coords = {"architecture": list(LABELS), "depth": depths}
    return xarray.Dataset({"least": (over, least), "largest": (over, largest)}, coords, {"units": "log2"})


def scales(data: xarray.Dataset, dtype: str) -> tuple[xarray.DataArray, xarray.DataArray]:
    """Return the least and the largest whole power of 2 that keeps the gradients in the normal range of a format."""
    limits = torch.finfo(getattr(torch, dtype))
    return np.ceil(math.log2(limits.tiny) - data.least), np.floor(math.log2(limits.max) - data.largest)


def share_with_scale(data: xarray.Dataset, dtype: str) -> xarray.DataArray:
    """Return the share of members with a loss scale, of those that have a gradient."""
    low, high = scales(data, dtype)
    return (low <= high).where(np.isfinite(data.largest)).mean("seed")


def try_scales(data: xarray.Dataset, depths: list[int], root: int, x: torch.Tensor) -> xarray.Dataset:
    """Run the pair in float16, every member with the middle of its own loss scales; return what fails.

    The dimension `run` has both ways, without a scale and with it: the share of members whose gradients fail, among
    those that have a scale.
    """
    shape = (len(PAIR), len(depths))
    failed, have = np.full((*shape, 2), np.nan), np.zeros(shape)
    low, high = scales(data, "float16")
    for a, name in enumerate(PAIR):
        for d, depth in enumerate(depths):
            ends = [v.sel(architecture=name, depth=depth).to_numpy() for v in (low, high)]
            exists = ends[0] <= ends[1]
            have[a, d] = exists.mean()
            if not exists.any():
                continue
            powers = torch.from_numpy(np.where(exists, np.floor((ends[0] + ends[1]) / 2), 0.0)).double()
            chain = st.Chain(name, max(data.depth.values), seeds=len(exists), root=root).prefix(depth)
            for run, factor in enumerate((torch.ones_like(powers), 2**powers)):
                # As a loss scaler does, the loss is scaled in a format that can hold it.
                f = st.first_failure(chain, x, ["float16"], lambda y, factor=factor: y.double().mean(dim=1) * factor)
                gradients = f.first()[0, f.quantities.index("gradients")].numpy()
                failed[a, d, run] = (gradients[exists] > 0).mean()
    coords = {"architecture": list(PAIR), "depth": depths, "run": ["no scale", "own scale"]}
    return xarray.Dataset(
        {"failed": (("architecture", "depth", "run"), failed), "exists": (("architecture", "depth"), have)}, coords
    )


def median(first: xarray.DataArray) -> float:
    """Return the median number of layers, inf where fewer than half fail."""
    layers = first.values
    return float(np.quantile(np.where(layers > 0, layers, np.inf), 0.5, method="inverted_cdf"))


def layers_of(number: float, depth: int) -> str:
    return f"{number:.0f}" if math.isfinite(number) else f"> {depth}"


def kinds(data: xarray.Dataset) -> str:
    """Return how the members fail first, the most frequent kind first."""
    layers = data.measured.transpose("kind", "seed").to_numpy()
    layers = np.where((data.predicted.transpose("kind", "seed") >= 0) & (layers > 0), layers, np.iinfo(np.int16).max)
    chosen = layers.argmin(axis=0)[data["first"].values > 0]
    shares = {str(k): float((chosen == n).mean()) for n, k in enumerate(data.kind.values)} if chosen.size else {}
    return " or ".join(k for k, share in sorted(shares.items(), key=lambda item: -item[1]) if share >= 0.1)


def report(init: str, data: xarray.Dataset) -> None:
    """Print for every architecture and format after how many layers what fails, measured and predicted."""
    depth = data.attrs["depth"]
    print(
        f"\n{init}, {depth} layers, {data.seed.size} seeds. Layers until the first failure, median measured "
        "(predicted), how, and the share that fails; gradients from the output, 1 where the loss overflows:"
    )
    for name in data.architecture.values:
        for dtype in data.dtype.values:
            parts = []
            for quantity in data.quantity.values:
                one = data.sel(architecture=name, dtype=dtype, quantity=quantity)
                share = float((one["first"] > 0).mean())
                if share == 0 and not (one.first_predicted > 0).any():
                    continue
                measured, predicted = (layers_of(median(one[v]), depth) for v in ("first", "first_predicted"))
                parts.append(f"{quantity} {measured} ({predicted}), {kinds(one) or 'none'}, {100 * share:.0f} %")
            if parts:
                print(f"  {LABELS[name]:<17}{dtype:<9}" + "; ".join(parts))
        if not (data["first"].sel(architecture=name) > 0).any():
            print(f"  {LABELS[name]:<17}nothing fails in any format")


def earliest(data: xarray.Dataset, name: str, dtype: str) -> tuple[float, str]:
    """Return after how many layers, and in what, a format first fails in the median."""
    found = {
        str(q): median(data["first"].sel(architecture=name, dtype=dtype, quantity=q)) for q in data.quantity.values
    }
    quantity = min(found, key=lambda q: found[q])
    return found[quantity], quantity


def among_precise(data: xarray.Dataset) -> xarray.DataArray:
    """Return the shares predicted among the members whose activations keep their digits.

    That is neither lose them within the depth nor are expected to. In an overflow all digits are lost too, but it is
    the range that fails.
    """
    states = data.sel(quantity="activations")
    digits, overflow = (states.measured.sel(kind=kind, drop=True) for kind in ("digits", "overflow"))
    lost = (digits > 0) & ~((overflow > 0) & (overflow <= digits))
    keeps = ~lost & ~(states.predicted.sel(kind="digits", drop=True) > 0)
    measured, predicted = data["first"].astype(int), data.first_predicted.astype(int)
    right = ((measured > 0) == (predicted > 0)) & (abs(measured - predicted) <= max(1, 0.01 * data.attrs["depth"]))
    return right.where(keeps).mean("seed")


def digits_between(data: xarray.Dataset, cases: list[tuple[str, ...]]) -> list[str]:
    """Say how far the layer after which the digits are lost is spread, and whether the measured one is within that."""
    lines, depth = [], data.attrs["depth"]
    for init, name, dtype, _ in cases:
        one = data.sel(architecture=name, dtype=dtype)
        states = one.sel(quantity="activations")
        overflow, lost = (states.measured.sel(kind=kind).to_numpy().astype(int) for kind in ("overflow", "digits"))
        low, high = (one.digits_between.sel(end=end).to_numpy().astype(int) for end in ("least", "largest"))
        # An overflow is no loss of digits, though it takes them too.
        by_digits = ~((overflow > 0) & (overflow <= lost))
        low, high, lost = (np.where(v > 0, v, depth + 1)[by_digits] for v in (low, high, lost))
        reached = low <= depth
        if reached.any():
            inside = float(((lost >= low) & (lost <= high)).mean())
            lines.append(
                f"{LABELS[name]}, {init}, {dtype}: when a random walk of errors reaches the state is spread over "
                f"{np.median((high - low)[reached]):.0f} layers (median; from where 5 % of the errors do to where "
                f"95 % do, or the last); agreement asks for {max(1.0, 0.01 * depth):.0f}. The measured layer is within "
                f"for {100 * inside:.0f} % of the members. A sharper prediction would need the run's own roundings."
            )
    return lines


def agreement(groups: dict[str, xarray.Dataset]) -> list[str]:
    """Say where the prediction is right, and where it is not."""
    cases = [
        (init, name, dtype, str(quantity))
        for init in INITS
        for name in LABELS
        for dtype in FORMATS
        for quantity in groups[init].quantity.values
    ]

    def value(table: dict[str, xarray.DataArray], case: tuple[str, ...]) -> float:
        return float(table[case[0]].sel(architecture=case[1], dtype=case[2], quantity=case[3]))

    shares = {case: value({init: groups[init].agreement for init in INITS}, case) for case in cases}
    low = {case: share for case, share in shares.items() if share < 0.95 - 1e-6}  # stored with seven digits
    text = f"Agreement: {len(cases) - len(low)} of {len(cases)} cases are predicted for at least 95 % of the members."
    if not low:
        return [text]
    lines = [text, f"Below 95 % are {len(low)}: "]
    lines[1] += ", ".join(f"{LABELS[c[1]]} {c[0]} {c[2]} {c[3]} {100 * share:.0f} %" for c, share in low.items()) + "."
    precise = {init: among_precise(groups[init]) for init in INITS}
    by_digits = {case: value(precise, case) for case in low if value(precise, case) >= 0.95}
    rest = [case for case in low if case not in by_digits]
    if by_digits:
        lines.append(
            f"In {len(by_digits)} of these it is the digits: of the members that keep them, and are expected to, at "
            f"least {100 * min(by_digits.values()):.0f} % are predicted. Of lost digits only the expectation is known, "
            "and a state whose digits have gone may also cancel to 0, which reads as underflow."
        )
    for init in INITS:
        lines += digits_between(groups[init], [case for case in low if case[0] == init and case[3] == "activations"])
    if rest:
        inits = " or ".join(sorted({case[0] for case in rest}))
        dtypes = " or ".join(sorted({case[2] for case in rest}, key=FORMATS.index))
        bounds = groups["bounds"]
        errors = [float(bounds.error.sel(init=c[0], architecture=c[1], dtype=c[2])) for c in rest]
        span = " to ".join(dict.fromkeys(f"10^{v:.1f}" for v in (min(errors), max(errors))))
        lines.append(
            f"In the other {len(rest)} (initialised by {inits}, in {dtypes}) it is not that alone. After "
            f"{bounds.attrs['depth']} layers these runs are off by {span} of the state (medians), and may take other "
            "branches than the chain does long before all digits are lost."
        )
    return lines


def findings(groups: dict[str, xarray.Dataset]) -> list[str]:
    """Say in words and numbers what was found."""
    lines = agreement(groups)
    free = groups["uniform"].sel(architecture="plain_prelu", dtype="float32")
    forward, backward = (median(free["first"].sel(quantity=q)) for q in ("products", "gradients"))
    if backward < 0.9 * forward:
        lines.append(
            f"Without biases the states of a plain PReLU chain vanish too. A state that is 0 takes the branch of slope "
            f"0.25 ever after, so in float32 gradients underflow after {backward:.0f} layers, where products do after "
            f"{forward:.0f}."
        )
    bounds = groups["bounds"]
    depth = bounds.attrs["depth"]
    lines.append(
        f"Forward error over {depth} layers: {int(bounds.violations.sum())} violations of the bound (must be 0) in "
        f"{int(bounds.compared.sum())} comparisons."
    )
    shares = (bounds.exceeded / bounds.compared).where(bounds.compared > 0)
    level = 100 * bounds.attrs["level"]
    lines.append(
        f"The probable bound, at {level:.0f} %, takes roundings as random, so that errors add in squares and not in "
        f"moduli: it is exceeded in {100 * float(bounds.exceeded.sum() / bounds.compared.sum()):.2f} % of the "
        f"comparisons, and in {100 * float(shares.max()):.2f} % of those of one chain and format at the most "
        f"({100 - level:.0f} % are allowed)."
    )
    for init in INITS:
        for name in PAIR:
            one = bounds.sel(init=init, architecture=name)
            each = (
                f"{dtype} 10^{float(one.error.sel(dtype=dtype)):.1f} (10^{float(one.bound.sel(dtype=dtype)):.1f}, "
                f"10^{float(one.probable.sel(dtype=dtype)):.1f}; {float(one.kept.sel(dtype=dtype)):.2f})"
                for dtype in FORMATS
                if np.isfinite(one.error.sel(dtype=dtype))
            )
            lines.append(
                f"{LABELS[name]}, {init}, error after {depth} layers (bound, probable bound; log bound / log error): "
                + ", ".join(each)
            )

    ranges, tried = groups["ranges"], groups["tried"]
    last = int(ranges.depth[-1])
    for name in LABELS:
        part = ranges.sel(architecture=name)
        shares = share_with_scale(part, "float16")
        fewer = ranges.depth.values[(shares < 0.5).values]
        bits = float((part.largest - part.least)[-1].where(np.isfinite(part.largest[-1])).median()) / last
        until = f"only below depth {fewer[0]}" if fewer.size else f"at all depths up to {last}"
        lines.append(
            f"Loss scale, {LABELS[name]}: most chains have one in float16 {until} "
            f"({100 * float(shares[-1]):.0f} % at depth {last}); the gradients spread over {bits:.2f} bits a layer."
        )
    for name in PAIR:
        for depth in tried.depth.values:
            one = tried.sel(architecture=name, depth=depth)
            if float(one.exists) == 0:
                lines.append(f"Tried in float16, {LABELS[name]}, depth {depth}: no member has a scale.")
                continue
            before, after = (100 * float(one.failed.sel(run=run)) for run in ("no scale", "own scale"))
            lines.append(
                f"Tried in float16, {LABELS[name]}, depth {depth}: {100 * float(one.exists):.0f} % of the members have "
                f"a scale; of these the gradients of {before:.0f} % fail without it and of {after:.0f} % with it."
            )
    return lines


def conclusion(groups: dict[str, xarray.Dataset]) -> str:
    """Return the finding in one paragraph, its words chosen by the numbers."""
    data = groups["pytorch"]
    depth = data.attrs["depth"]
    plain, residual = ({d: earliest(data, name, d) for d in FORMATS} for name in PAIR)
    order = sorted(FORMATS, key=lambda dtype: plain[dtype][0])

    def say(found: dict[str, tuple[float, str]]) -> str:
        return ", ".join(
            f"{dtype} after {found[dtype][0]:.0f} layers ({found[dtype][1]})"
            if math.isfinite(found[dtype][0])
            else f"{dtype} not within {depth}"
            for dtype in order
        )

    text = (
        f"Found: with torch's initialisation a plain PReLU chain fails in {say(plain)}; a residual one in "
        f"{say(residual)}."
    )
    if plain["float16"][0] < plain["bfloat16"][0] and residual["bfloat16"][0] < math.inf:
        text += (
            " In the plain chain it is the range that is missing, so bfloat16, with the range of float32, does better "
            "than float16"
        )
        if residual["bfloat16"][1] == "activations":
            text += "; in the residual chain what bfloat16 misses are digits"
        text += "."
    bounds = groups["bounds"].sel(init="pytorch")
    before, after = (float(bounds.error.sel(architecture=name, dtype="float32")) for name in PAIR)
    if after > before + 0.3 and plain["float32"][1] != "activations":
        text += (
            f" The forward error says the opposite: after {groups['bounds'].attrs['depth']} layers of float32 it is "
            f"10^{before:.1f} in the plain chain and 10^{after:.1f} in the residual one, since a chain that forgets "
            "its input forgets its roundings too. A plain chain computes the right output, and no gradient."
        )
    shares = share_with_scale(groups["ranges"], "float16")
    lost = [shares.depth.values[(shares.sel(architecture=name) < 0.5).values] for name in PAIR]
    limits = torch.finfo(torch.float16)
    bits = math.log2(limits.max) - math.log2(limits.tiny)
    if lost[0].size:
        later = f"from depth {lost[1][0]}" if lost[1].size else f"not up to depth {int(shares.depth[-1])}"
        text += (
            f" A loss scale saves float16 only while all gradients fit into its {bits:.0f} bits at once: for most "
            f"plain chains there is none from depth {lost[0][0]}, for most residual ones {later}."
        )
    exact = min(
        float(groups[init].agreement.sel(architecture="plain_prelu", quantity=["products", "gradients"]).min())
        for init in INITS
    )
    if exact >= 0.95 - 1e-6:
        text += (
            " All this was to be seen beforehand, without running in any format: in plain PReLU chains products and "
            f"gradients fail where the logarithms say for {'at least ' if exact < 1 else ''}{100 * exact:.0f} % of the "
            "members."
        )
    return text


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    if settings.quick:
        seeds, depth_of, error_depth, deepest = 20, {"pytorch": 60, "uniform": 60, "he": 20}, 30, 50
    else:
        seeds, depth_of, error_depth, deepest = 100, {"pytorch": 500, "uniform": 500, "he": 200}, 200, 1000
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    groups = {init: first_failures(init, depth_of[init], seeds, settings.seed, x) for init in INITS}
    for init in INITS:
        report(init, groups[init])
    groups["errors"], groups["bounds"] = forward_errors(error_depth, max(1, error_depth // 50), seeds, settings.seed, x)
    depths = [1, 2, 3, 5, 7, 10, 13, 16, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000]
    groups["ranges"] = gradient_range([d for d in depths if d <= deepest], 2 * seeds, settings.seed, x)
    groups["tried"] = try_scales(groups["ranges"], [10, min(deepest, 200)], settings.seed, x)
    print()
    for line in findings(groups):
        print(textwrap.fill(line, 100, subsequent_indent="    "))
    paths = st.plots.save(draw(groups), xarray.DataTree.from_dict(groups), settings.out, "precision")
    print("\n" + textwrap.fill(conclusion(groups), 100))
    print("Written: " + ", ".join(str(path) for path in paths))


def draw(groups: dict[str, xarray.Dataset]) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(11.5, 8.6))
        upper, lower = figure.subfigures(2, 1, height_ratios=(1.3, 1))
        tops = upper.subplots(1, 2)
        for ax, init, words in zip(tops, ("pytorch", "uniform"), ("torch's initialisation", "no biases"), strict=True):
            draw_failures(groups[init], ax, named=init == "pytorch")
            ax.set_title(f"layers until a format fails, {words}", loc="left")
        look = {"color": "#555555", "linestyle": "", "markersize": 5}
        marks = {"activations": "o", "products": "s", "gradients": "^"}
        keys = [plt.Line2D([], [], marker=mark, label=name, **look) for name, mark in marks.items()]
        keys += [
            plt.Line2D([], [], marker="o", markerfacecolor="white", label="open: most seeds survive", **look),
            plt.Line2D([], [], color="black", linestyle="", marker="|", markersize=8, label="predicted"),
        ]
        upper.legend(handles=keys, loc="outside lower center", ncols=5)
        axes = lower.subplots(1, 4, width_ratios=(1, 1, 1.25, 1.05))
        for ax, name in zip(axes, PAIR, strict=False):
            draw_errors(groups["errors"].sel(architecture=name), name, ax)
        axes[1].set_ylabel("")
        axes[1].tick_params(labelleft=False)
        draw_agreement(groups, axes[2])
        draw_scales(groups["ranges"], axes[3])
    return figure


def draw_failures(data: xarray.Dataset, ax: plt.Axes, named: bool) -> None:
    """Draw the rows of all formats, a block an architecture, the names of both to the left if they are wanted."""
    ticks, step, depth = [], len(FORMATS) + 0.6, data.attrs["depth"]
    for a, name in enumerate(LABELS):
        st.plots.first_failure(data.sel(architecture=name), ax, colour=st.plots.colour(name), top=a * step, size=3.6)
        ticks += [a * step + row for row in range(len(FORMATS))]
        for row, dtype in enumerate(FORMATS):
            words, least = how(data.sel(architecture=name, dtype=dtype))
            place = {"xytext": (-3, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            if words:
                ax.annotate(words, (least, a * step + row), **place, fontsize=6, color="#444444")
        if a:
            ax.axhline(a * step - 0.8, color="#BBBBBB", linewidth=0.6, zorder=0)
        if named:
            words = "\n".join(LABELS[name].rsplit(" ", 1))
            place = {"xy": (-0.155, a * step + 1.5), "xycoords": ax.get_yaxis_transform(), "annotation_clip": False}
            look = {"ha": "right", "va": "center", "color": st.plots.colour(name), "fontweight": "bold"}
            ax.annotate(words, **place, **look)
    ax.set_yticks(ticks, list(FORMATS) * len(LABELS) if named else [""] * len(ticks), fontsize=7)
    ax.set_ylim((len(LABELS) - 1) * step + len(FORMATS) - 0.4, -0.7)
    ax.set_xlim(left=0.25)  # with room for a word before the first layer
    ax.grid(axis="y", visible=False)
    ax.axvline(depth * 1.12, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    words = f"survives {depth}"
    ax.annotate(words, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=7)


def how(data: xarray.Dataset) -> tuple[str, float]:
    """Return how those quantities fail of which most seeds do, and from which layer on 5 % of the seeds do."""
    words, least = [], math.inf
    for quantity in data.quantity.values:
        one = data.sel(quantity=quantity)
        layers = np.where(one["first"] > 0, one["first"], np.inf)
        low = float(np.quantile(layers, 0.05, method="inverted_cdf"))
        # The bars of those that most seeds survive are in the way too.
        least = min(least, low)
        middle = median(one["first"])
        if math.isfinite(middle):
            kind = kinds(one).split(" or ")[0]
            words.append("loss overflows" if (quantity, kind, middle) == ("gradients", "overflow", 1) else kind)
    # That the loss overflows says that the states do.
    return words[-1] if "loss overflows" in words else ", ".join(dict.fromkeys(words)), least


def draw_errors(data: xarray.Dataset, name: str, ax: plt.Axes) -> None:
    """Draw the forward error of every format."""
    for dtype in FORMATS:
        st.plots.forward_error(data, ax, colour=st.plots.colour(name), dtype=dtype)
        height = float(data.log_errors.sel(dtype=dtype).isel(depth=-1).median()) / math.log(10)
        place = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(dtype, (data.depth[-1], height), **place, fontsize=7)
    ax.set_xlim(0, 1.35 * float(data.depth[-1]))
    ax.axhline(0, color="#999999", linewidth=0.8)
    ax.set_ylim(-17.8, 1)
    ax.set_yticks(range(-16, 1, 4))
    ax.set_title(f"forward error, {LABELS[name]}", loc="left")
    if name == PAIR[0]:
        keys = [
            plt.Line2D([], [], color="#555555", label="error"),
            plt.Line2D([], [], color="#555555", linestyle="--", label="bound"),
            plt.Line2D([], [], color="#555555", linestyle=":", label="probable, 99 %"),
        ]
        ax.legend(handles=keys, loc="center left", bbox_to_anchor=(0, 0.32))


def draw_agreement(groups: dict[str, xarray.Dataset], ax: plt.Axes) -> None:
    """Draw the share of members predicted, with a number where it is low."""
    order = ("architecture", "dtype", "quantity")
    shares = 100 * np.concatenate([groups[init].agreement.transpose(*order).to_numpy() for init in INITS])
    table = shares.reshape(len(shares), -1)
    # Pale where all is as predicted, so that what is not stands out.
    ax.imshow(table, cmap="Reds_r", vmin=30, vmax=100, aspect="auto")
    for row, column in np.argwhere(table < 95):
        shade = "white" if table[row, column] < 62 else "black"
        ax.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", fontsize=6, color=shade)
    quantities = [str(q)[0] for q in groups[INITS[0]].quantity.values]
    ax.set_xticks(range(table.shape[1]), quantities * len(FORMATS), fontsize=7)
    ax.set_yticks(range(len(table)), list(LABELS.values()) * len(INITS), fontsize=6)
    for tick, name in zip(ax.get_yticklabels(), list(LABELS) * len(INITS), strict=True):
        tick.set_color(st.plots.colour(name))
    for i, init in enumerate(INITS):
        place = {"xy": (1.02, (i + 0.5) * len(LABELS) - 0.5), "xycoords": ax.get_yaxis_transform()}
        ax.annotate(init, **place, rotation=270, va="center", fontsize=7, annotation_clip=False)
        if i:
            ax.axhline(i * len(LABELS) - 0.5, color="#777777", linewidth=0.8)
    for f, dtype in enumerate(FORMATS):
        place = {"xy": ((f + 0.5) * len(quantities) - 0.5, 0), "xycoords": ax.get_xaxis_transform()}
        offset = {"xytext": (0, -16), "textcoords": "offset points"}
        ax.annotate(dtype, **place, **offset, ha="center", va="top", fontsize=7, annotation_clip=False)
        if f:
            ax.axvline(f * len(quantities) - 0.5, color="#777777", linewidth=0.8)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.set_xlabel("a, p, g: activations, products, gradients", fontsize=7, labelpad=17)
    ax.set_title("share predicted (%, if below 95)", loc="left")


def draw_scales(data: xarray.Dataset, ax: plt.Axes) -> None:
    """Draw the share of members with a loss scale against depth."""
    styles = {"float16": "-", "bfloat16": "--"}
    for name in LABELS:
        for dtype, style in styles.items():
            share = 100 * share_with_scale(data.sel(architecture=name), dtype)
            ax.plot(data.depth, share, style, color=st.plots.colour(name), linewidth=1.4)
    ax.set(xscale="log", ylim=(-3, 103), xlabel="depth")
    ax.set_title("seeds with a loss scale (%)", loc="left")
    keys = [plt.Line2D([], [], color="#555555", linestyle=style, label=name) for name, style in styles.items()]
    ax.legend(handles=keys, loc="lower left")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
