"""Is depth a time: are the steps of a residual chain the Euler steps of a differential equation, trained ones as well?

Question. Peng reads a very deep chain as an iteration, "a differential equation rich in iteration". A step h + f(h) / L
is an Euler step of dh/dt = f(h). How near are chains to that equation, which trained chains are near one at all, and
what may be taken over from equations: gradients by the adjoint equation, and steps of half the size, twice as many?

Method. Fresh chains under 1 / L, with weights that are smooth along the depth, are held against their equation by
`st.flow`, those under 1 / sqrt(L) with independent weights against the stochastic one. The adjoint method goes back
from the output by Euler steps of the equation for the state and for its gradient, and keeps no states; its gradient is
set against that of the backward pass, which is the exact one of the chain. Chains of 30 steps with a read-out are
trained on sin(x), free ones of width 1 by growth, Levenberg-Marquardt (LM) and Adam, and under 1 / L of width 1 and 2
by Adam. Of each step the largest |J - I| on the points is taken; then each step is divided into k steps of a k-th of
its size.

Reading. a: root mean square distance of chains from their flow. b: relative difference of the two gradients, lines of
fresh chains, dots of trained ones. c: how far the steps are from the identity, the farthest first; a step above the
dashed line alone may turn the line. d: error after the division. Medians over seeds; bands, their quartiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import intervals
import stability as st
import study

#: Activation and width of the fresh chains.
FRESH = {"tanh, width 1": ("tanh", 1), "tanh, width 4": ("tanh", 4), "ReLU, width 1": ("relu", 1)}
FRESH_SHADES = dict(zip(FRESH, ("#000000", "#D55E00", "#56B4E9"), strict=True))
#: Width, power of the factor, method and initialisation of the trained chains.
TRAINED = {
    "growth": (1, 0.0, "growth", "pytorch"),
    "LM": (1, 0.0, "levenberg_marquardt", "knots"),
    "Adam": (1, 0.0, "adam", "pytorch"),
    "1/L, width 1": (1, -1.0, "adam", "pytorch"),
    "1/L, width 2": (2, -1.0, "adam", "pytorch"),
}
TRAINED_SHADES = dict(zip(TRAINED, ("#009E73", "#E69F00", "#0072B2", "#CC79A7", "#000000"), strict=True))


@dataclass(frozen=True)
class Settings(study.Settings):
    """Chains read as Euler steps, fresh and trained."""

    depths: tuple[int, ...] = (10, 30, 100, 300, 1000)  # Of the fresh chains.
    seeds: int = 8  # Of the fresh chains.
    samples: int = 2000  # Chains of independent weights.
    depth: int = 30  # Of the trained chains.
    trained_seeds: int = 16  # Of the trained chains.
    iterations: tuple[int, int] = (1000, 300)  # Of the free chains, and of those under 1 / L.
    parts: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # Into which each step is divided.


def architecture(activation: str, power: float, readout: bool = False, shared: bool = False) -> st.Architecture:
    return st.Architecture(
        f"residual2_{activation}", skip=1, maps=2, activation=activation, branch_power=power, readout=readout,
        shared=shared,
    )  # fmt: skip


def points(count: int, width: int) -> torch.Tensor:
    """Return points on (-3, 3), at width n the first of n numbers, the others 0."""
    x = torch.linspace(-3, 3, count, dtype=torch.float64)
    return x if width == 1 else torch.nn.functional.pad(x[:, None], (0, width - 1))


def flowing(name: str, settings: Settings) -> xarray.Dataset:
    """Return how far fresh chains are from their flow, and their gradients by the adjoint from those of the chain."""
    activation, width = FRESH[name]
    x = points(9, width)
    f = st.flow(architecture(activation, -1.0), x, settings.depths, settings.seeds, width=width, root=settings.seed)
    # One set of parameters for all steps, so that chains of all depths are chains of one equation.
    constant, adjoint = architecture(activation, -1.0, shared=True), []
    for depth in settings.depths:
        chain = st.Chain(constant, depth, settings.seeds, width, root=settings.seed)
        adjoint.append(gradient_difference(chain, x))
    found = {"distance": (("depth", "seed"), f.distances.numpy()), "adjoint": (("depth", "seed"), np.stack(adjoint))}
    assert f.order is not None
    return xarray.Dataset(found | {"order": ("end", list(f.order[:3]))}, {"depth": list(settings.depths)})


def stochastic(settings: Settings) -> xarray.Dataset:
    """Return the differences of statistics from those of the stochastic limit, and their intervals."""
    rough = st.Architecture("residual2_relu", skip=1, maps=2, branch=3.0, branch_power=-0.5)
    depths = tuple(depth for depth in settings.depths if depth <= 100)
    f = st.flow(rough, points(3, 1), depths, settings.samples, grid=4 * depths[-1], root=settings.seed)
    order = [np.nan] * 3 if f.order is None else list(f.order[:3])
    dims = ("shallow", "point", "statistic")
    found = {"off": (dims, f.differences.value.numpy()), "off_half": (dims, f.differences.half.numpy())}
    return xarray.Dataset(found | {"stochastic_order": ("end", order)}, {"shallow": list(depths)})


def gradients(chain: st.Chain, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of sum(y^2) at all parameters of the steps, (seed, number): of the chain, and the adjoint's.

    The adjoint starts from the true output and goes back by h - f(h) and a + f'(h)^T a, both at the later state.
    """
    kinds = [kind for kind, _ in chain.named_parameters() if not kind.startswith("readout")]
    found, start = [], x.expand(chain.seeds, *x.shape)
    with torch.no_grad():
        last = start
        for step in chain.steps:
            last = step(last)
    last.requires_grad_(True)
    chain.readout(last).square().sum().backward()
    a = last.grad
    assert a is not None
    for method in ("chain", "adjoint"):
        chain.zero_grad()
        if method == "chain":
            chain(x).square().sum().backward()
        else:
            h = last.detach()
            for step in reversed(chain.steps):
                h = h.requires_grad_(True)
                after = step(h)
                after.backward(a)
                a, h = h.grad, (2 * h - after).detach()
        found.append(torch.cat([getattr(chain, kind).grad.flatten(1) for kind in kinds], 1))
    return found[0], found[1]


def gradient_difference(chain: st.Chain, x: torch.Tensor) -> np.ndarray:
    """Return |adjoint - chain| over |chain|, (seed,)."""
    exact, adjoint = gradients(chain, x)
    return np.asarray((adjoint - exact).norm(dim=1) / exact.norm(dim=1))


def divided(chain: st.Chain, x: torch.Tensor, parts: int) -> torch.Tensor:
    """Return the first output of the chain when each step h + f(h) becomes so many steps h + f(h) / parts."""
    h = x.expand(chain.seeds, *x.shape)
    with torch.no_grad():
        for step in chain.steps:
            for _ in range(parts):
                h = h + (step(h) - h) / parts
        y = chain.readout(h)
    return y if y.ndim == 2 else y[..., 0]


def turns(y: Sequence[float] | np.ndarray) -> int:
    """Return how often a line of values changes its direction, by more than rounding."""
    signs = np.sign(np.diff(y))[np.abs(np.diff(y)) > 1e-9]
    return int((signs[1:] != signs[:-1]).sum())


def trained(name: str, settings: Settings) -> xarray.Dataset:
    """Train chains on the sine and return how far each step is from the identity, and what division makes of them."""
    width, power, method, init = TRAINED[name]
    torch.set_num_threads(1)  # as fast as two for tensors this small
    relu, seeds = architecture("relu", power, readout=True), settings.trained_seeds
    chain = st.Chain(relu, settings.depth, seeds, width, init=init, root=settings.seed)
    x, fresh = points(128, width), points(2000, width)
    free, scaled = settings.iterations
    iterations = scaled if power else min(free, 200) if method == "levenberg_marquardt" else free
    rate = {"rate": 0.03} if power else {}
    task = st.Task.from_samples(x, x.sin())  # sin 0 = 0: the other numbers of the output are 0
    st.train(chain, task, method, iterations, progress=False, **rate)
    distance = st.spectrum(chain, x, progress=False).distance_from_identity[: settings.depth].amax(2)
    wanted = (fresh if width == 1 else fresh[:, 0]).sin()
    lines = [divided(chain, fresh, parts) for parts in settings.parts]
    found = {
        "step_distance": (("seed_trained", "rank"), -np.sort(-distance.numpy().T, axis=1)),
        "error": (("seed_trained", "parts"), torch.stack([(y - wanted).square().mean(1) for y in lines], 1).numpy()),
        "turns": (("seed_trained", "parts"), [[turns(one[k].numpy()) for one in lines] for k in range(seeds)]),
        "trained_adjoint": ("seed_trained", gradient_difference(chain, x)),
    }
    return xarray.Dataset(found, {"parts": list(settings.parts), "rank": range(1, settings.depth + 1)})


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    best = st.references.best_monotone(st.Task(torch.sin, (-3, 3), 2000))
    fresh = parts.cells(flowing, settings, fresh=list(FRESH))
    chains = parts.cells(trained, settings, name=list(TRAINED))
    return xarray.merge([fresh, chains, parts.part("stochastic", stochastic, settings)]).assign(best_monotone=best)


def slope(distances: xarray.DataArray) -> str:
    """Say by which power of the depth a distance falls over the deeper depths, with Student's interval over seeds."""
    deep = distances.isel(depth=slice(-3, None))
    power, half = intervals.slope(np.log(deep.depth), np.log(deep.transpose("depth", "seed")))
    return f"L^-{-power:.4f} +- {half:.1g}"


def claims(data: xarray.Dataset) -> list[study.Claim]:
    def each(variable: xarray.DataArray, names: Iterable[str] = TRAINED) -> str:
        return ", ".join(f"{name} {study.spread(variable.sel(name=name))}" for name in names)

    orders = data.order.to_numpy()
    first = bool((abs(orders[:, 0] - 1) < 0.02).all())
    off = float((abs(data.off) <= data.off_half).mean())
    adjoint = [slope(data.adjoint.sel(fresh=name)) for name in FRESH]
    near = bool((data.adjoint.isel(depth=-1) < data.adjoint.isel(depth=0)).all())
    far = (data.step_distance > 1).sum("rank")
    whole, half, finest = (data.isel(parts=k) for k in (0, 1, -1))
    free = [name for name in TRAINED if "1/L" not in name]
    needed = st.theory.least_turning_steps().value(turns=whole.turns.isel(name=slice(-1)).to_numpy())
    ratio = half.error / whole.error
    turning = study.share(finest.turns.isel(name=slice(-1)) > 0)
    rows = (
        (
            "Under 1 / L and smooth weights the distance from the flow falls as 1 / L", "E 2017; theory",
            ", ".join("{} L^-{:.4f} ({:.4f} to {:.4f})".format(*one) for one in zip(FRESH, *orders.T, strict=True)),
            "held" if first else "refuted",
        ),
        (
            "Under 1 / sqrt(L) and independent weights chains have the law of the stochastic equation", "Cohen 2021",
            f"{100 * off:.0f} % of {data.off.size} means, mean squares and quantiles at L = "
            f"{', '.join(map(str, data.shallow.values))} are within their 95 % intervals of the limit's",
            "held" if off > 0.9 else "refuted",
        ),
        (
            "The adjoint equation gives the gradient of the chain", "Chen 2018",
            f"fresh, under 1 / L, they differ by {', '.join(adjoint)} ({', '.join(FRESH)}); trained at L = "
            f"{data.sizes['rank']} by {each(data.trained_adjoint)} of the gradient",
            ("refined" if float(data.trained_adjoint.sel(name="growth").median()) > 0.1 else "held")
            if near else "refuted",
        ),
        (
            "A trained residual chain is near a flow: its steps are near the identity", "E 2017; Peng 2017",
            f"steps with |J - I| above 1, of {data.sizes['rank']}: {each(far)}; turns: {each(whole.turns)}; all others "
            f"have a median |J - I| of {each(data.step_distance.where(data.step_distance <= 1).median('rank'), free)}",
            "refuted" if bool((far.sel(name=free).median("seed_trained") > 0).all()) else "held",
        ),
        (
            "The far steps are the folds: grown chains have as many as turns", "theory",
            f"in {study.share(far.sel(name='growth') == whole.turns.sel(name='growth'))} of the grown chains and "
            f"{study.share(far.sel(name='LM') == whole.turns.sel(name='LM'))} of those by LM; fewer than turns need in "
            f"{study.share(far.isel(name=slice(-1)) < needed)} of all of width 1; the other far steps stretch",
            "refuted" if bool((far.isel(name=slice(-1)) < needed).any())
            else "held" if bool((far == whole.turns).sel(name="growth").all()) else "refined",
        ),
        (
            "Twice as many steps of half the size make the same of the input", "depth as time",
            f"the error is multiplied by {each(ratio)}; in {data.parts.values[-1]} parts errors are "
            f"{each(finest.error)}, and of the chains of width 1 {turning} still turn",
            "refuted" if bool((ratio.median("seed_trained") > 2).any()) else "held",
        ),
    )  # fmt: skip
    return [study.Claim(*row) for row in rows]


def draw(data: xarray.Dataset) -> Figure:
    figure, axes = st.plots.panels("ab;cd", height=5.4)
    draw_fresh(data.distance, axes["a"], "distance from the flow")
    draw_fresh(data.adjoint, axes["b"], "adjoint against backward pass")
    draw_trained_adjoint(data, axes["b"])
    draw_steps(data, axes["c"])
    draw_division(data, axes["d"])
    far = float((data.step_distance > 1).sum("rank").sel(name="growth").median())
    whole, half = (float(data.error.sel(name="growth").isel(parts=k).median()) for k in (0, 1))
    least, most = float(data.order[:, 0].min()), float(data.order[:, 0].max())
    power = f"{least:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
    st.plots.headline(
        figure,
        f"Fresh chains under $1/L$ come to their flow as $L^{{-{power}}}$, but a grown chain is none: {far:.0f} of its "
        f"{data.sizes['rank']} steps are far from the identity, they are its folds, and half steps raise its error "
        f"from {whole:.0e} to {half:.2f}.".replace("e-0", "e-"),
    )
    return figure


def band(ax: Axes, values: xarray.DataArray, over: str, seeds: str, shade: str, label: str | None = None) -> float:
    """Draw medians and quartiles over seeds, and return where the line ends."""
    levels = values.quantile([0.25, 0.5, 0.75], seeds).transpose("quantile", over).to_numpy()
    st.plots.band(ax, values[over].to_numpy(), levels, shade, marks=2.5, alpha=0.15, label=label)
    return float(levels[1, -1])


def draw_fresh(values: xarray.DataArray, ax: Axes, title: str) -> None:
    ax.set(xscale="log", yscale="log", xlabel="depth L", title=title)
    ends = {name: band(ax, values.sel(fresh=name), "depth", "seed", FRESH_SHADES[name]) for name in FRESH}
    ax.set_ylabel("root mean square" if values.name == "distance" else "relative difference of gradients")
    st.plots.ticks(ax, x=values.depth.values.tolist())
    if values.name == "distance":
        least, top = values.depth.values[0], 2.5 * float(values.max())
        ax.plot(values.depth, top * least / values.depth, color="#777777", linestyle=(0, (4, 2)), linewidth=0.9)
        ax.text(3.5 * least, top / 2.6, "1 / L", color="#777777", fontsize=7)
    st.plots.end_labels(ax, ends, FRESH_SHADES)


def draw_trained_adjoint(data: xarray.Dataset, ax: Axes) -> None:
    """Draw every trained chain as a dot near its depth."""
    for place, name in enumerate(TRAINED):
        one, depth = data.trained_adjoint.sel(name=name), data.sizes["rank"] * 1.12 ** (place - 2)
        ax.plot([depth] * one.size, one, ".", color=TRAINED_SHADES[name], markersize=3)
    ax.text(1.7 * data.sizes["rank"], 0.6, "trained chains, colours as in c", fontsize=7)


def draw_steps(data: xarray.Dataset, ax: Axes) -> None:
    ax.set(
        xscale="log",
        xlabel="step, the farthest first",
        ylabel="largest |J - I| of a step",
        title="steps of trained chains",
    )
    for name in TRAINED:
        band(ax, data.step_distance.sel(name=name), "rank", "seed_trained", TRAINED_SHADES[name], name)
    ax.legend(loc="upper right")
    ax.axhline(1, color="#777777", linestyle=(0, (4, 2)), linewidth=0.9)
    ax.set_ylim(bottom=0)
    st.plots.ticks(ax, x=[k for k in (1, 2, 3, 5, 10, 20, 30) if k <= data.sizes["rank"]])


def draw_division(data: xarray.Dataset, ax: Axes) -> None:
    ax.set(xscale="log", yscale="log", xlabel="parts k that each step is divided into", ylabel="mean squared error")
    ends = {
        name: band(ax, data.error.sel(name=name), "parts", "seed_trained", TRAINED_SHADES[name]) for name in TRAINED
    }
    ax.set_title("steps divided")
    ax.axhline(float(data.best_monotone), color="#777777", linestyle=(0, (4, 2)), linewidth=0.9)
    ax.text(float(data.parts[-1]), 0.8 * float(data.best_monotone), "best monotone", va="top", ha="right", fontsize=7)
    st.plots.ticks(ax, x=data.parts.values.tolist())
    st.plots.end_labels(ax, ends, TRAINED_SHADES)


if __name__ == "__main__":
    quick = Settings(
        depths=(5, 10, 20), seeds=2, samples=80, depth=6, trained_seeds=4, iterations=(60, 40), parts=(1, 2, 8)
    )
    study.main(Settings(), quick, measure, draw, claims)
