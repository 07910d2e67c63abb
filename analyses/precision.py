"""Which floating-point format fails first, after how many layers, in what and how?

Question. A float16 number lies between 10^-5 and 10^5, a bfloat16 number has two to three digits. After how many layers
does a run of Peng's five chains fail in bfloat16, float16, float32 and float64: in the states h_l (activations), in
dh_l/dx (products) or in dLoss/dh_l (gradients, counted from the output), and by overflow, underflow or lost digits? Do
logarithms say so beforehand? How does the forward error grow, does its bound hold, and does a loss scale save float16?

Method. Chains of one neuron, freshly initialised, 9 points on (-3, 3); the loss is the mean of the output. Measured:
the chain is rounded to the format and run in it: forward, forward with a tangent, and backward. Predicted: from sums of
logarithms and the limits of the format; lost digits from random roundings. The forward error is against arithmetic of
106 bits, its bound from running error analysis. A scale exists for a member if its gradients, times the scale, stay in
the normal range; the middle one is tried in a run.

Reading. a, b: layers until the first failure, a row a format; gradients fail at once where the loss overflows. Marks
are medians over seeds, bars go from 5 to 95 %, black ticks are the medians predicted; at an open mark the median
survives the whole depth. c, d: forward error by layer, median and 5 to 95 %, with the medians of the bound (dashed) and
of the one that holds with 99 % for random roundings (dotted). The second figure. a: the share of seeds that are
predicted to one layer or a hundredth of the depth; a, p and g are activations, products and gradients. b, in the
colours of a: the share of seeds for which a loss scale exists; dots are the seeds that it saves, which are none where
the loss overflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import stability as st
import study

FORMATS, HALF = ("bfloat16", "float16", "float32", "float64"), ("float16", "bfloat16")
QUANTITIES = ("activations", "products", "gradients")
PAIR = ("plain_prelu", "residual2_prelu")
INITS = {"pytorch": "torch's initialisation", "uniform": "no biases", "he": "He et al."}
TOTALS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
#: The share of members that a case is to be predicted for; shares are stored with seven digits.
ENOUGH = 0.95 - 1e-6


@dataclass(frozen=True)
class Settings(study.Settings):
    seeds: int = 100  # Members of every chain.
    depth: int = 500  # Of the chains that are run until they fail.
    error_depth: int = 200  # Of the chains whose forward error is taken.
    scaled_depth: int = 1000  # Of the deepest chains for which a loss scale is looked for.


def chain_of(architecture: str, depth: int, settings: Settings, init: str = "pytorch") -> tuple[st.Chain, torch.Tensor]:
    chain = st.Chain(architecture, depth, seeds=settings.seeds, init=init, root=settings.seed)
    return chain, torch.linspace(-3, 3, 9, dtype=torch.float64)


def failures(init: str, architecture: str, settings: Settings) -> xarray.Dataset:
    found = st.first_failure(*chain_of(architecture, settings.depth, settings, init), FORMATS, progress=False)
    data, over = found.to_dataset(), ("dtype", "quantity", "seed")
    data["first"], data["first_predicted"] = (over, found.first().numpy()), (over, found.first(predicted=True).numpy())
    data["agreement"] = (over[:2], found.agreement.numpy())
    # Numbers of layers are small, and seven digits are enough for the rest.
    return data.astype({name: np.int16 if v.dtype.kind == "i" else np.float32 for name, v in data.items()})


def errors(init: str, architecture: str, settings: Settings) -> xarray.Dataset:
    """Return what the forward error is after the last layer, as log10, and how often it exceeds its bounds."""
    found = st.forward_error(*chain_of(architecture, settings.error_depth, settings, init), FORMATS).to_dataset()
    error, bound, probable = (found[f"log_{name}"] / math.log(10) for name in ("errors", "bounds", "probable_bounds"))
    # Where the truth is exactly zero a relative error says nothing, and an infinite bound is no bound.
    told = np.isfinite(error) & np.isfinite(bound)
    over = ["depth", "seed"]
    data = {
        "violations": (~(error <= bound)).sum(over),
        "compared": told.sum(over),
        "exceeded": (told & (error > probable)).sum(over),
        "kept": (bound.clip(max=0) / error).where(told & (error < 0)).median(over),
    }
    last = {"error": error, "bound": bound, "probable": probable}
    ends = {name: v.where(told)[:, -1].drop_vars("depth").astype(np.float32) for name, v in last.items()}
    return xarray.Dataset(data | ends)


def curves(architecture: str, settings: Settings) -> xarray.Dataset:
    found = st.forward_error(*chain_of(architecture, settings.error_depth, settings), FORMATS).to_dataset()
    return found[["log_errors", "log_bounds", "log_probable_bounds"]].isel(depth=slice(0, None, 8)).astype(np.float32)


def scales(architecture: str, settings: Settings) -> xarray.Dataset:
    """Return log2 of the loss scales that exist, and whether float16 gradients fail without one and with the middle."""
    totals = [total for total in TOTALS if total <= settings.scaled_depth]
    deepest, x = chain_of(architecture, totals[-1], settings)
    ends, failed = [], []
    for total in totals:
        chain = deepest.prefix(total)
        plain = st.first_failure(chain, x, HALF, progress=False)
        low, high = plain.loss_scales[..., 0].ceil(), plain.loss_scales[..., 1].floor()
        middle = torch.where(low <= high, (low + high) / 2, 0)[0].floor()
        # As a loss scaler does, the loss is scaled in a format that can hold it.
        loss = lambda y, by=2**middle: y.double().mean(dim=1) * by  # noqa: E731
        scaled = st.first_failure(chain, x, HALF[:1], loss, progress=False)
        ends.append(torch.stack([low, high], dim=-1).numpy())
        failed.append([one.first()[0, QUANTITIES.index("gradients")].numpy() > 0 for one in (plain, scaled)])
    data = {
        "scale": (("total", "half", "seed", "end"), np.stack(ends).astype(np.float32), {"units": "log2"}),
        "failed": (("total", "run", "seed"), np.array(failed), {"long_name": "float16 gradients fail"}),
    }
    ends_and_runs = {"end": ["least", "largest"], "run": ["no scale", "middle scale"]}
    return xarray.Dataset(data, {"total": totals, "half": list(HALF)} | ends_and_runs)


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    every = {"init": list(INITS), "architecture": list(study.CHAINS)}
    found = [
        parts.cells(failures, settings, **every),
        parts.cells(errors, settings, **every),
        parts.cells(curves, settings, followed=list(PAIR)),
        parts.cells(scales, settings, architecture=list(study.CHAINS)),
    ]
    data = xarray.merge(found, combine_attrs="drop")
    data.attrs |= {"depth": settings.depth, "error_depth": settings.error_depth}
    return data


def levels(one: xarray.Dataset) -> np.ndarray:
    """Return after how many layers a quantity fails, inf for never: median and what 90 % of the seeds are between."""
    return study.levels(one["first"].where(one["first"] > 0, np.inf), axis=-1)


def layers(one: xarray.Dataset) -> str:
    low, middle, high = (f"{v:.0f}" if v < np.inf else f"> {one.attrs['depth']}" for v in levels(one))
    return middle if low == high else f"{middle} ({low} to {high})"


def kind_of(one: xarray.Dataset) -> str:
    """Return how most of the members that fail do so first."""
    known = one.measured.where((one.predicted >= 0) & (one.measured > 0), np.inf)
    chosen = known.argmin("kind")[one["first"].to_numpy() > 0].to_numpy()
    return str(one.kind.values[np.bincount(chosen).argmax()]) if chosen.size else "no failure"


def earliest(data: xarray.Dataset) -> list[dict[str, tuple[float, str]]]:
    """Return after how many layers each format first fails in the pair, and in words, in what and how."""
    found: list[dict[str, tuple[float, str]]] = [{} for _ in PAIR]
    for row, name in zip(found, PAIR, strict=True):
        for dtype in FORMATS:
            each = [data.sel(init="pytorch", architecture=name, dtype=dtype, quantity=q) for q in QUANTITIES]
            middle, one = min(((levels(one)[1], one) for one in each), key=lambda pair: pair[0])
            how = f" ({one.quantity.item()}, {kind_of(one)})" if middle < np.inf else ""
            row[dtype] = middle, f"{dtype} {layers(one)}{how}"
    return found


def say(shares: xarray.DataArray) -> str:
    return ", ".join(f"{' '.join(k)} {100 * v:.0f} %" for k, v in shares.to_series().dropna().items()) or "none"


def right(data: xarray.Dataset) -> xarray.DataArray:
    """Return the shares predicted among the members whose states keep their digits, and are expected to."""
    states = data.sel(quantity="activations", drop=True)
    digits, overflow = (states.measured.sel(kind=kind, drop=True) for kind in ("digits", "overflow"))
    # In an overflow all digits are lost too, but it is the range that fails.
    lost = (digits > 0) & ~((overflow > 0) & (overflow <= digits))
    measured, predicted = data["first"].astype(int), data.first_predicted.astype(int)
    near = ((measured > 0) == (predicted > 0)) & (abs(measured - predicted) <= max(1, 0.01 * data.attrs["depth"]))
    return near.where(~lost & ~(states.predicted.sel(kind="digits", drop=True) > 0)).mean("seed")


def spread_of_digits(data: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return whether lost digits are between the layers where they are expected, and how far apart these are."""
    states, never = data.sel(quantity="activations"), data.attrs["depth"] + 1
    lost, overflow = (states.measured.sel(kind=kind).to_numpy().astype(int) for kind in ("digits", "overflow"))
    low, high = (states.digits_between.sel(end=end).to_numpy().astype(int) for end in ("least", "largest"))
    among = (low > 0) & ~((overflow > 0) & (overflow <= lost))
    low, high, lost = (np.where(v > 0, v, never)[among] for v in (low, high, lost))
    return (lost >= low) & (lost <= high), high - low


def claims(data: xarray.Dataset) -> list[study.Row]:
    pytorch, last = data.sel(init="pytorch"), data.attrs["error_depth"]
    plain, residual = earliest(data)
    lasts = f"layers until the first failure: plain PReLU {plain['float16'][1]}, {plain['bfloat16'][1]}; residual 2 "
    lasts += f"PReLU {residual['float16'][1]}, {residual['bfloat16'][1]}"
    sooner = any(one["bfloat16"][0] < one["float16"][0] for one in (plain, residual))
    keeps = f"plain PReLU fails in {plain['float32'][1]}, residual 2 PReLU in {residual['float32'][1]}"
    kept = plain["float32"][0] < np.inf == residual["float32"][0]
    low = data.agreement.where(data.agreement < ENOUGH)
    other = right(data).where(low.notnull())
    logs = f"{int(low.isnull().sum())} of {low.size} cases are predicted for at least 95 % of the seeds; not so: "
    logs += f"{say(low)}. Among the seeds that keep their digits not so: {say(other.where(other < ENOUGH))}"
    inside, apart = spread_of_digits(data)
    walk = f"{study.share(inside)} of {inside.size} seeds lose them between the layers where 5 % and 95 % of errors do,"
    walk += f" {study.spread(apart)} apart"
    bound = f"{int(data.violations.sum())} violations in {int(data.compared.sum())} comparisons, {last} layers"
    exceeded, most = data.exceeded.sum() / data.compared.sum(), float((data.exceeded / data.compared).max())
    probable = f"{100 * float(exceeded):.2f} % of all, and at most {100 * most:.2f} % in one chain and format"
    rare = "held" if most <= 0.01 else "refined" if exceeded <= 0.01 else "refuted"
    error = {name: pytorch.sel(architecture=name, dtype="float32") for name in PAIR}
    wrong = f"log10 of the error in float32 after {last} layers, and of its bound: " + ", ".join(
        f"{study.CHAINS[name]} {study.spread(one.error)}, {study.spread(one.bound)}" for name, one in error.items()
    )
    better = error[PAIR[0]].error.median() < error[PAIR[1]].error.median()
    have, failed = exist(data).sel(half="float16"), data.failed.sel(architecture=list(PAIR))
    until = {label: scaled_until(data, name) for name, label in study.CHAINS.items()}
    tried = have.sel(architecture=list(PAIR)).transpose("architecture", "total", "seed").to_numpy()
    before, after = (~failed.sel(run=run).to_numpy()[tried] for run in ("no scale", "middle scale"))
    scale = f"most chains have one: {', '.join(map(' '.join, until.items()))}; of the PReLU chains that have one "
    scale += f"{study.share(before)} pass without it and {study.share(after)} with it"
    saves = "refuted" if after.mean() < 0.95 else "held" if set(until.values()) == {"at all depths"} else "refined"
    free = data.sel(architecture=PAIR[0], dtype="float32")
    both = {init: [free.sel(init=init, quantity=q) for q in QUANTITIES[1:]] for init in ("pytorch", "uniform")}
    products, gradients = (levels(one)[1] for one in both["uniform"])
    equal = ", ".join(f"{init} {layers(two[0])} and {layers(two[1])}" for init, two in both.items())
    equal = f"plain PReLU, float32: {equal}; without biases a state that is 0 takes the branch of slope 0.25 ever after"
    together = "held" if gradients > 0.9 * products else "refined"
    practice, micikevicius = "common practice", "Micikevicius et al. 2018"
    return [
        ("bfloat16, with float32's range, outlasts float16", practice, lasts, not sooner),
        ("A bypass keeps float32's range", "He et al. 2016", keeps, kept),
        ("Logarithms say where a format fails", "theory", logs, "refined" if low.notnull().any() else "held"),
        ("Digits are lost where a random walk of errors reaches the state", "theory", walk, inside.mean() >= 0.9),
        ("The forward error never exceeds its bound", "Higham 2002", bound, not data.violations.any()),
        ("It exceeds the probable bound in at most 1 % of the cases", "Higham and Mary 2019", probable, rare),
        ("A chain whose gradient vanishes has a wrong output too", practice, wrong, not better),
        ("A loss scale saves the gradients in float16", micikevicius, scale, saves),
        ("A plain chain's products and gradients underflow after equally many layers", "theory", equal, together),
    ]


def exist(data: xarray.Dataset) -> xarray.DataArray:
    """Return whether there is a whole power of 2 that keeps the gradients in the range."""
    return data.scale.sel(end="least", drop=True) <= data.scale.sel(end="largest", drop=True)


def scaled_until(data: xarray.Dataset, name: str) -> str:
    """Say up to which depth most members have a loss scale in float16."""
    shares = exist(data).sel(half="float16", architecture=name).mean("seed")
    none = data.total.values[shares.values < 0.5]
    return f"below depth {none[0]}" if none.size else "at all depths"


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    figure, axes = st.plots.panels("ab;cd", height=7.4, height_ratios=(1.9, 1))
    for letter, init in zip("ab", INITS, strict=False):
        draw_failures(data.sel(init=init), axes[letter], named=letter == "a")
    for letter, name in zip("cd", PAIR, strict=True):
        draw_errors(data.sel(followed=name), name, axes[letter])
    more, others = st.plots.panels("ab", height=3.5, width_ratios=(1.5, 1))
    draw_agreement(data.agreement, others["a"])
    draw_scales(data, others["b"])
    rows = [[f"{one[dtype][0]:.0f}" for dtype in FORMATS[:3]] for one in earliest(data)]
    plain, residual = ("{}, {} and {}".format(*row).replace("inf", f"> {data.attrs['depth']}") for row in rows)
    error = [float(data.error.sel(init="pytorch", architecture=name, dtype="float32").median()) for name in PAIR]
    finding = (
        f"A plain PReLU chain fails in bfloat16, float16 and float32 after {plain} layers, a residual one after "
        f"{residual}; their forward errors in float32 are $10^{{{error[0]:.1f}}}$ and $10^{{{error[1]:.1f}}}$."
    )
    other = (
        f"Logarithms predict {int((data.agreement >= ENOUGH).sum())} of {data.agreement.size} cases for 95 % of the "
        f"seeds or more; most plain PReLU chains have a loss scale for float16 only {scaled_until(data, PAIR[0])}."
    )
    return {"": st.plots.headline(figure, finding), "predictions": st.plots.headline(more, other)}


def draw_failures(data: xarray.Dataset, ax: Axes, named: bool) -> None:
    """Draw the rows of all formats, a block an architecture, the names of both to the left if they are wanted."""
    ticks, step = [], len(FORMATS) + 0.6
    beside = {"ha": "right", "va": "center", "fontsize": 7, "annotation_clip": False}
    for a, (name, label) in enumerate(study.CHAINS.items()):
        shade, chain = st.plots.colour(name), data.sel(architecture=name)
        st.plots.first_failure(chain, ax, colour=shade, top=a * step, size=3)
        ticks += [a * step + row for row in range(len(FORMATS))]
        for dtype, y in zip(FORMATS, ticks[-len(FORMATS) :], strict=True):
            words, least = how(chain.sel(dtype=dtype))
            if words:
                ax.annotate(words, (least, y), (-3, 0), textcoords="offset points", color="#444444", **beside)
        ax.axhline(a * step - 0.8, color="#BBBBBB", linewidth=0.6, zorder=0)
        if named:
            place, words = (-0.26, a * step + 1.5), "\n".join(label.rsplit(" ", 1))
            ax.annotate(words, place, xycoords=ax.get_yaxis_transform(), color=shade, fontweight="bold", **beside)
    ax.set_yticks(ticks, list(FORMATS) * len(study.CHAINS) if named else [""] * len(ticks))
    # With room for a word before the first layer.
    ax.set(title=INITS[data.init.item()], ylim=(ticks[-1] + 0.6, -0.7), xlim=(0.02, ax.get_xlim()[1]))
    ax.grid(axis="y", visible=False)
    ax.axvline(data.attrs["depth"] * 1.12, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    if named:
        for label, mark in zip((*QUANTITIES, "predicted"), "os^|", strict=True):
            ax.plot([], [], mark, label=label, color="#555555", markersize=4)
        ax.legend(loc="upper left", borderpad=0, handletextpad=0.2, labelspacing=0.2)


def how(chain: xarray.Dataset) -> tuple[str, float]:
    """Return how those quantities fail of which most seeds do, and from which layer on 5 % of the seeds do."""
    each = [chain.sel(quantity=quantity) for quantity in QUANTITIES]
    low, middle, _ = np.transpose([levels(one) for one in each])
    words = [kind_of(one) for one, layer in zip(each, middle, strict=True) if layer < np.inf]
    # That the loss overflows says that the states do.
    overflows = middle[-1] == 1 and words[-1] == "overflow"
    return "loss overflows" if overflows else ", ".join(dict.fromkeys(words)), low.min()


def draw_errors(data: xarray.Dataset, name: str, ax: Axes) -> None:
    for dtype in FORMATS:
        st.plots.forward_error(data, ax, colour=st.plots.colour(name), dtype=dtype)
    ax.set(title=f"forward error, {study.CHAINS[name]}", ylim=(-17.8, 1), xlim=(0, data.depth[-1]))
    ax.set_yticks(range(-16, 1, 4))
    ends = data.log_errors.isel(depth=-1).median("seed") / math.log(10)
    st.plots.end_labels(ax, {str(dtype): float(end) for dtype, end in zip(data.dtype.values, ends, strict=True)})


def draw_agreement(shares: xarray.DataArray, ax: Axes) -> None:
    table = 100 * shares.transpose("init", "architecture", "dtype", "quantity").to_numpy().reshape(-1, 12)
    columns = [word for dtype in FORMATS for word in ("a", f"p\n{dtype}", "g")]
    # Pale where all is as predicted, so that what is not stands out.
    st.plots.numbers(ax, table, list(study.CHAINS.values()) * len(INITS), columns, below=100 * ENOUGH, cmap="Reds_r")
    for tick, name in zip(ax.get_yticklabels(), list(study.CHAINS) * len(INITS), strict=True):
        tick.set_color(st.plots.colour(name))
    for i, init in enumerate(INITS):
        ax.text(11.6, 5 * i + 2, init, rotation=270, va="center", fontsize=7)
        ax.axhline(5 * i - 0.5, color="#777777", linewidth=0.8)
        ax.axvline(3 * i + 2.5, color="#777777", linewidth=0.8)
    ax.set_title("share predicted (%, if below 95)")


def draw_scales(data: xarray.Dataset, ax: Axes) -> None:
    shares = 100 * exist(data).mean("seed")
    saved = 100 * (exist(data).sel(half="float16") & ~data.failed.sel(run="middle scale")).mean("seed")
    for name in study.CHAINS:
        shade = st.plots.colour(name)
        for half, style in zip(HALF, ("-", "--"), strict=True):
            ax.plot(data.total, shares.sel(architecture=name, half=half), style, color=shade)
        ax.plot(data.total, saved.sel(architecture=name), "o", color=shade, markersize=2.5)
    ax.set(xscale="log", xlim=(1, float(data.total[-1])), ylim=(-3, 103), xlabel="depth", title="with a loss scale (%)")
    words = "solid: float16\ndashed:\nbfloat16\ndots: seeds\nthat a scale\nsaves\n(float16)"
    ax.text(1.1, 70, words, fontsize=7, va="top")


if __name__ == "__main__":
    quick = Settings(seeds=20, depth=60, error_depth=30, scaled_depth=50)
    study.main(Settings(), quick, measure, draw, claims)
