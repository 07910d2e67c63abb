"""Which members of a chain die in training, in which layer, why, and do they come back?

Question. Peng (2017) says of the plain ReLU chain that it dies, of the residual one that very deep it can still die,
and that PReLU solves the dying. How many members are dead before the first iteration, how many die in training on
sin(x), where and by what, how many are only flat or stuck? Does a smaller learning rate or another method help?

Method. A member is dead when its derivative is exactly 0 at every point, flat when its output varies by less than 1 %
of the target's range, stuck when its best error is not below 0.99 of the best constant's. Its layer of death is the
first behind which all derivatives are 0. Every iteration is looked at: a member is alive where one point has no
zero factor on its way, and only those without such a witness are decided exactly, at all points. Plain ReLU chains are
mostly born dead, so many are drawn and those alive are trained. For a death in training the iteration before says what
moved the killing layer's pre-activation under 0, at the point where it was highest: its weight, its bias, or the layers
before it. Shares have 95 % Wilson intervals.

Reading. Top: share of plain ReLU members that are dead against the iteration, those born dead as the offset; in which
layer, a row a depth, percent of the deaths at birth and in training; one member as it dies. Bottom: dead, flat and
stuck members at the end against depth (residual 1 ReLU is always stuck: f(x) >= x); what made the members die, by the
distance that was left in units of the rate.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
import xarray
from numpy.typing import NDArray
from scipy.stats import binomtest

import stability as st

Array = NDArray[Any]

LABELS = {
    "plain_relu": "plain ReLU",
    "plain_prelu": "plain PReLU",
    "residual1_relu": "residual 1 ReLU",
    "residual2_relu": "residual 2 ReLU",
    "residual2_prelu": "residual 2 PReLU",
}
INITS = {
    "he": ("plain_prelu", "residual2_relu", "residual2_prelu"),
    "scaled": ("residual2_relu", "residual2_prelu"),
    "knots": ("residual2_relu", "residual2_prelu"),
    "identity": ("plain_prelu",),
}
MOVERS = ("its weight", "its bias", "layers before")
RATE, CLIP = 0.01, 1.0
FACTORS = (0.3, 3.0)


@dataclass(frozen=True)
class Settings:
    """Which members of a chain die in training, where and why."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, iterations and depths: under 10 seconds."""
    out: Path = Path("figures")
    """The folder for the figure (PNG, PDF) and its data (netCDF)."""
    seed: int = 0
    """The root seed."""


def death_layers(chain: st.Chain, x: torch.Tensor) -> tuple[Array, Array]:
    """Return for each member its layer of death, 0 for none, and the index of a point at which it is alive."""
    signs = st.spectrum(chain, x).signs
    assert signs is not None  # there are signs at width 1
    dead = (signs == 0).all(2).numpy()
    alive = (signs[-1] != 0).numpy()
    # The middle one of the points that are alive stays so the longest.
    middle = alive.cumsum(1) >= (alive.sum(1, keepdims=True) + 1) // 2
    return np.where(dead.any(0), dead.argmax(0) + 1, 0), (middle & alive).argmax(1)


class Watch:
    """Looks at every iteration of a training, and keeps when and where each member died first, and the tables around
    it."""

    def __init__(self, chain: st.Chain, x: torch.Tensor) -> None:
        self.chain, self.x = chain, x
        self.table = chain.table()
        self.layer, self.witness = death_layers(chain, x)
        self.born, self.start = self.layer.copy(), self.table.copy()
        self.iteration_of_death = np.full(chain.seeds, -1)
        self.layer_of_death = np.zeros_like(self.layer)
        self.revivals = np.zeros_like(self.layer)
        self.before, self.after = self.table.copy(), self.table.copy()
        self.dead_by_iteration: list[Array] = []

    def __call__(self, iteration: int, _losses: torch.Tensor) -> None:
        table = self.chain.table()
        # The dead stay dead as long as nothing up to their layer of death moves.
        beyond = np.arange(table.shape[1]) >= self.layer[:, None]
        unmoved = (self.layer > 0) & ((table == self.table).all(2) | beyond).all(1)
        open_ = np.flatnonzero(~unmoved & ~self._alive(table))
        layer = np.where(unmoved, self.layer, 0)
        if open_.size:
            chain = st.Chain.from_table(table[open_], self.chain.architecture)
            layer[open_], self.witness[open_] = death_layers(chain, self.x)
        first = (layer > 0) & (self.iteration_of_death < 0) & (self.born == 0)
        self.iteration_of_death[first], self.layer_of_death[first] = iteration, layer[first]
        self.before[first], self.after[first] = self.table[first], table[first]
        self.revivals += (self.layer > 0) & (layer == 0)
        self.layer, self.table = layer, table
        self.dead_by_iteration.append(layer > 0)

    def _alive(self, table: Array) -> Array:
        """Return which members are surely alive: no factor is near 0 on the way of their witness."""
        skip, weight, bias, outer, outer_bias, slope = np.moveaxis(table[:, : self.chain.depth], 2, 0)
        above, below = skip + outer * weight, skip + outer * weight * slope
        small = 1e-9  # far above rounding
        alive: Array = ((abs(above) > small) & (abs(below) > small)).all(1)
        rest = np.flatnonzero(~alive)
        h, on = self.x.numpy()[self.witness[rest]], np.ones(len(rest), dtype=bool)
        for r in range(self.chain.depth) if rest.size else ():
            z = weight[rest, r] * h + bias[rest, r]
            factor = np.where(z > 0, above[rest, r], below[rest, r])
            on &= (abs(z) > small) & (abs(factor) > small)
            phi = np.where(z > 0, z, slope[rest, r] * z)
            h = skip[rest, r] * h + outer[rest, r] * phi + outer_bias[rest, r]
        alive[rest] = on
        return alive


def shape_of(chain: st.Chain, task: st.Task) -> dict[str, Array]:
    """Return which members are flat, the share of their ReLUs that are off at all points, and log10 max |f'|."""
    with torch.no_grad():
        output, h, off = chain(task.x), task.x, []
        for step in chain.steps:
            off.append((step.weight[:, None] * h + step.bias[:, None] <= 0).all(1))
            h = step(h)
    relu = float(chain.architecture.phi.slope == 0)
    steepest = st.spectrum(chain, task.x).log_values[-1].amax((1, 2)) / np.log(10)
    return {
        "flat": (output.amax(1) - output.amin(1) < 0.01 * (task.y.max() - task.y.min())).numpy(),
        "off": relu * torch.stack(off).double().mean(0).numpy(),
        "log10_derivative": steepest.numpy(),
    }


def train(
    architecture: str,
    depth: int,
    members: Sequence[int] | int,
    task: st.Task,
    root: int,
    init: str = "pytorch",
    iterations: int = 1000,
    rate: float = RATE,
    method: str = "adam",
) -> xarray.Dataset:
    """Train members and return by seed what became of them."""
    seeds = list(range(members)) if isinstance(members, int) else list(members)
    # Members are independent, and arrays of more than 128 kB are given back to the system after every operation.
    groups = np.array_split(seeds, -(-len(seeds) * (depth + 1) // 2500))
    parts = []
    for group in groups:
        chain = st.Chain(architecture, depth, seeds=group.tolist(), init=init, root=root)
        parts.append(train_group(chain, task, method, iterations, rate))
    attrs = {"architecture": architecture, "init": init, "depth": depth, "method": method, "rate": rate}
    return xarray.concat(parts, "seed").assign_attrs(attrs)


def train_group(chain: st.Chain, task: st.Task, method: str, iterations: int, rate: float) -> xarray.Dataset:
    """Train the members of a chain and return by seed what became of them."""
    watch = Watch(chain, task.x)
    first = shape_of(chain, task)
    options = {"rate": rate, "clip": CLIP} if method == "adam" else {}
    history = st.train(chain, task, method, iterations, on_iteration=watch, **options)
    kept = death_layers(chain, task.x)[0] > 0  # the chain is at its best parameters now
    chain.set_table(watch.table)
    last = shape_of(chain, task)
    data: dict[str, Any] = {
        "born_dead": watch.born > 0,
        "dead": watch.layer > 0,
        "iteration_of_death": watch.iteration_of_death,
        "layer_of_death": watch.layer_of_death,
        "revivals": watch.revivals,
        "dead_at_best": kept,
        "stuck": (history.best_loss >= 0.99 * st.references.constant(task)).numpy(),
        "loss": history.best_loss.numpy(),
        **{f"{name}_first": value for name, value in first.items()},
        **last,
    }
    dead = np.array(watch.dead_by_iteration)
    dead = np.concatenate(
        [dead, np.repeat(dead[-1:], iterations + 1 - len(dead), 0)]
    )  # one may converge before the end
    variables = {name: ("seed", value) for name, value in data.items()} | deaths(watch, task, history, rate)
    variables["dead_by_iteration"] = (("iteration", "seed"), dead)
    return xarray.Dataset(variables, {"seed": list(chain.members), "iteration": np.arange(iterations + 1)})


def deaths(watch: Watch, task: st.Task, history: st.History, rate: float) -> dict[str, Any]:
    """Return by seed why it died: NaN and -1 for those that did not, or not in training, and for other chains.

    With z = w h + b the killing layer's pre-activation at the point where it was highest among those then alive, the
    iteration's change of z is, exactly, (w' - w) h' + (b' - b) + w (h' - h).
    """
    seeds = watch.chain.seeds
    names = ("distance", "drop", *(f"drop_{i}" for i in range(len(MOVERS))), "live_points", "gradient", "loss_before")
    names += ("range_before",)
    found = {name: np.full(seeds, np.nan) for name in names}
    mover, all_off = np.full(seeds, -1), np.zeros(seeds, dtype=bool)
    died = np.flatnonzero(watch.iteration_of_death > 0) if watch.chain.architecture.name == "plain_relu" else []
    for s in died:
        k = watch.layer_of_death[s] - 1
        runs = [pre_activations(table[s], k, task.x.numpy()) for table in (watch.before, watch.after)]
        (h, z, live), (h_after, z_after, _) = runs
        p = np.where(live, z, -np.inf).argmax()
        (w, b), (w_after, b_after) = watch.before[s, k, 1:3], watch.after[s, k, 1:3]
        parts = ((w_after - w) * h_after[p], b_after - b, w * (h_after[p] - h[p]))
        found["distance"][s], found["drop"][s], found["live_points"][s] = z[p], z[p] - z_after[p], live.sum()
        for i, part in enumerate(parts):
            found[f"drop_{i}"][s] = -part
        mover[s], all_off[s] = int(np.argmin(parts)), (z_after <= 0).all()
        found["loss_before"][s] = history.loss[watch.iteration_of_death[s] - 1, s]
    if len(died):
        chain = st.Chain.from_table(watch.before[died], watch.chain.architecture)
        output = chain(task.x)
        (output - task.y).square().mean(1).sum().backward()
        found["range_before"][died] = (output.amax(1) - output.amin(1)).detach().numpy()
        squares = [p.grad.square().reshape(len(died), -1).sum(1) for p in chain.parameters() if p.grad is not None]
        found["gradient"][died] = torch.stack(squares).sum(0).sqrt().numpy()
    found["distance_in_rates"] = found["distance"] / rate
    return {k: ("seed", v) for k, v in (found | {"mover": mover, "all_off": all_off}).items()}


def pre_activations(rows: Array, layer: int, x: Array) -> tuple[Array, Array, Array]:
    """Return at a layer of a plain ReLU chain the states, the pre-activations, and which points are alive behind it."""
    h, live = x, np.ones(len(x), dtype=bool)
    for _, weight, bias, *_ in rows[:layer]:
        z = weight * h + bias
        h, live = np.maximum(z, 0), live & (z > 0)
    z = rows[layer, 1] * h + rows[layer, 2]
    return h, z, live & (z > 0)


def births(init: str, depths: Sequence[int], draws: int, task: st.Task, root: int) -> Array:
    """Return the layer of death of plain ReLU members before training, 0 for those alive at the deepest depth.

    A depth is the prefix of the next, so that those dead at one are not looked at again.
    """
    layers = np.zeros(draws, dtype=int)
    for depth in depths:
        alive = np.flatnonzero(layers == 0)
        for part in np.array_split(alive, max(1, len(alive) // 4096)) if alive.size else ():
            chain = st.Chain("plain_relu", depth, seeds=part.tolist(), init=init, root=root)
            layers[part] = death_layers(chain, task.x)[0]
    return layers


def share(count: int, of: int) -> tuple[float, float, float]:
    """Return a share and the ends of its 95 % interval (Wilson 1927); NaN where there is nobody."""
    if of == 0:
        return (np.nan,) * 3
    interval = binomtest(count, of).proportion_ci(method="wilson")
    return count / of, interval.low, interval.high


def percent(count: int, of: int) -> str:
    middle, low, high = (100 * v for v in share(count, of))
    return f"{middle:.1f} % ({low:.1f} to {high:.1f}, {count} of {of})"


@dataclass(frozen=True)
class Size:
    """How much is done."""

    draws: int
    seeds: int
    iterations: int
    relu_depths: tuple[int, ...]
    depths: tuple[int, ...]
    init_depth: int
    rate_depth: int


FULL = Size(32768, 256, 500, (3, 5, 10), (3, 10, 30, 100), 30, 5)
QUICK = Size(1024, 32, 80, (3, 5), (3, 10), 10, 3)


def alive_members(layers: Array, depth: int, seeds: int) -> list[int]:
    """Return the first members that are alive at birth at a depth."""
    alive: list[int] = np.flatnonzero((layers == 0) | (layers > depth))[:seeds].tolist()
    return alive


def experiments(size: Size, root: int, task: st.Task) -> dict[str, xarray.Dataset]:
    """Return all trainings by name, "architecture/init/depth/method/rate", and the births of plain ReLU chains."""
    runs: dict[str, xarray.Dataset] = {}

    def add(name: str, depth: int, members: Sequence[int] | int, init: str = "pytorch", **options: Any) -> None:
        method, rate = options.get("method", "adam"), options.get("rate", RATE)
        iterations = options.pop("iterations", size.iterations)
        key = key_of(size, name, init, depth, method, rate, iterations)
        runs[key] = train(name, depth, members, task, root, init, iterations, **options)

    born = {}
    for init in ("pytorch", "he"):
        born[init] = births(init, (*size.relu_depths, 100), size.draws, task, root)
        for depth in size.relu_depths:
            add("plain_relu", depth, alive_members(born[init], depth, size.seeds), init)
    few = alive_members(born["pytorch"], size.rate_depth, size.seeds)
    # The same members at other rates, over as many iterations as have the same rate times iterations.
    for factor in FACTORS:
        add("plain_relu", size.rate_depth, few, rate=RATE * factor, iterations=round(size.iterations / factor))
    add("plain_relu", size.rate_depth, few, method="levenberg_marquardt", iterations=100)
    # That the dead at birth do not come back, and Levenberg-Marquardt's way with them.
    dead = np.flatnonzero((born["pytorch"] > 0) & (born["pytorch"] <= size.rate_depth))[: size.seeds].tolist()
    runs["born dead adam"] = train("plain_relu", size.rate_depth, dead, task, root, iterations=size.iterations)
    runs["born dead levenberg_marquardt"] = train(
        "plain_relu", size.rate_depth, dead, task, root, iterations=100, method="levenberg_marquardt"
    )
    add("residual2_relu", 10, size.seeds, method="levenberg_marquardt", iterations=60)
    for name in LABELS:
        for depth in size.depths if name != "plain_relu" else ():
            add(name, depth, size.seeds)
    for init, names in INITS.items():
        for name in names:
            add(name, size.init_depth, size.seeds, init)
    runs["births"] = xarray.Dataset({init: ("member", layers) for init, layers in born.items()})
    return runs


def example(runs: dict[str, xarray.Dataset], size: Size, root: int, task: st.Task) -> xarray.Dataset:
    """Train the member again, alone, that varied most one iteration before it died for good; return its functions.

    Alone it takes the same path, iteration by iteration.
    """
    data = runs[key_of(size, "plain_relu", depth=min(size.relu_depths))]
    gone = (data.iteration_of_death > 0) & data.dead
    seed = int(data.seed[np.argmax(data.range_before.where(gone, -1).values)]) if gone.any() else int(data.seed[0])
    death = int(data.iteration_of_death.sel(seed=seed))
    chain = st.Chain("plain_relu", data.attrs["depth"], seeds=[seed], root=root)
    outputs: list[Array] = []
    history = st.train(
        chain,
        task,
        iterations=size.iterations,
        rate=RATE,
        clip=CLIP,
        on_iteration=lambda *_: outputs.append(chain(task.x).detach()[0]),
    )
    iterations = sorted({0, max(0, death - 5), max(0, death - 1), max(0, death)})
    return xarray.Dataset(
        {
            "output": (("at", "x"), np.stack([outputs[iteration].numpy() for iteration in iterations])),
            "loss": ("iteration", history.loss[:, 0].numpy()),
            "target": ("x", task.y.numpy()),
        },
        {"at": iterations, "x": task.x.numpy(), "iteration": np.arange(len(history.loss))},
        {"seed": seed, "depth": data.attrs["depth"], "death": death},
    )


def key_of(
    size: Size,
    name: str,
    init: str = "pytorch",
    depth: int = 0,
    method: str = "adam",
    rate: float = RATE,
    iterations: int | None = None,
) -> str:
    return f"{name} {init} {depth} {method} {rate:g} {size.iterations if iterations is None else iterations}"


def born_dead(layers: Array, depth: int) -> int:
    return int(((layers > 0) & (layers <= depth)).sum())


def final_shares(runs: dict[str, xarray.Dataset], size: Size) -> xarray.Dataset:
    """Return the shares at the end with intervals, (kind, architecture, depth, end).

    Of plain ReLU chains those of all members drawn: what is dead at birth is flat and stuck for good. The interval
    is that of the trained ones, for far more were drawn.
    """
    depths = sorted({*size.relu_depths, *size.depths})
    kinds = ("dead", "flat", "stuck")
    values = np.full((len(kinds), len(LABELS), len(depths), 3), np.nan)
    layers = runs["births"]["pytorch"].to_numpy()
    for k, kind in enumerate(kinds):
        for a, name in enumerate(LABELS):
            for d, depth in enumerate(depths):
                key = key_of(size, name, depth=depth)
                if name == "plain_relu":
                    count = born_dead(layers, depth)
                    born = count / len(layers)
                    if count == len(layers) or key not in runs:
                        values[k, a, d] = share(count, len(layers))
                    else:
                        ends = share(int(runs[key][kind].sum()), runs[key].seed.size)
                        values[k, a, d] = born + (1 - born) * np.array(ends)
                elif key in runs:
                    values[k, a, d] = share(int(runs[key][kind].sum()), runs[key].seed.size)
    coords = {"kind": list(kinds), "architecture": list(LABELS), "depth": depths, "end": ["share", "low", "high"]}
    return xarray.Dataset({"share": (tuple(coords), values)}, coords)


def layer_shares(runs: dict[str, xarray.Dataset], size: Size) -> xarray.Dataset:
    """Return the share of the deaths of plain ReLU chains that each layer has, (when, depth, layer)."""
    deepest = max(size.relu_depths)
    values = np.full((2, len(size.relu_depths), deepest), np.nan)
    layers = runs["births"]["pytorch"].to_numpy()
    for d, depth in enumerate(size.relu_depths):
        data = runs[key_of(size, "plain_relu", depth=depth)]
        where = (
            layers[(layers > 0) & (layers <= depth)],
            data.layer_of_death.values[data.iteration_of_death.values > 0],
        )
        for w, found in enumerate(where):
            values[w, d, :depth] = np.bincount(found, minlength=depth + 1)[1 : depth + 1] / max(1, len(found))
    coords = {"when": ["birth", "training"], "depth": list(size.relu_depths), "layer": np.arange(1, deepest + 1)}
    return xarray.Dataset({"share": (tuple(coords), values)}, coords)


def draw(tree: dict[str, xarray.Dataset], size: Size) -> plt.Figure:
    """Draw the figure from the data that is stored beside it."""
    shades = dict(zip(size.relu_depths, ("#999999", "#555555", "#000000"), strict=False))
    with mpl.rc_context(st.plots.STYLE):
        figure = plt.figure(figsize=(14, 6.6))
        grid = figure.add_gridspec(4, 4)
        whole, part, shown = (figure.add_subplot(grid[:2, i]) for i in (0, 1, 3))
        maps = [figure.add_subplot(grid[i, 2]) for i in (0, 1)]
        ends = [figure.add_subplot(grid[2:, i]) for i in range(3)]
        causes = figure.add_subplot(grid[2:, 3])

        layers = tree["births"]["pytorch"].to_numpy()
        for depth, shade in shades.items():
            data = tree[key_of(size, "plain_relu", depth=depth)]
            born = born_dead(layers, depth) / len(layers)
            place = data.iteration + 1
            whole.plot(
                place,
                100 * (born + (1 - born) * data.dead_by_iteration.mean("seed")),
                color=shade,
                label=f"depth {depth}",
            )
            whole.axhline(100 * born, color=shade, linestyle=":", linewidth=1)
            part.plot(
                place, 100 * data.dead_by_iteration.mean("seed"), color=shade, label=f"depth {depth}, rate {RATE:g}"
            )
        for factor, style in zip(FACTORS, ("--", "-."), strict=True):
            rate, iterations = RATE * factor, round(size.iterations / factor)
            data = tree[key_of(size, "plain_relu", depth=size.rate_depth, rate=rate, iterations=iterations)]
            shade = shades[size.rate_depth]
            label = f"depth {size.rate_depth}, rate {rate:g}"
            part.plot(
                data.iteration + 1, 100 * data.dead_by_iteration.mean("seed"), color=shade, linestyle=style, label=label
            )
        for ax, title in ((whole, "plain ReLU, all drawn\n(dotted: born dead)"), (part, "of those alive at birth")):
            ax.set(xscale="log", xlabel="iteration + 1", ylabel="dead, %", title=title)
            ax.legend(fontsize=7)
        whole.set_ylim(100 * born_dead(layers, min(size.relu_depths)) / len(layers) - 5, 101)
        part.set_ylim(0, 100)

        for ax, when, title in zip(
            maps, ("birth", "training"), ("born dead: layer", "died in training: layer"), strict=True
        ):
            values = 100 * tree["layers"].share.sel(when=when)
            ax.imshow(values, aspect="auto", cmap="Greys", vmin=0, vmax=75)
            for d in range(values.shape[0]):
                for layer in range(values.shape[1]):
                    v = float(values[d, layer])
                    if np.isfinite(v):
                        tone = "white" if v > 40 else "black"
                        ax.text(layer, d, f"{v:.0f}", ha="center", va="center", fontsize=7, color=tone)
            ax.set_xticks(range(values.shape[1]), [str(v) for v in values.layer.values])
            ax.set_yticks(range(values.shape[0]), [str(v) for v in values.depth.values])
            ax.set(ylabel="depth", title=title + ", % of deaths")
            ax.grid(False)
        maps[1].set_xlabel("layer")

        one = tree["example"]
        shown.plot(one.x, one.target, color="#999999", linestyle="--", label="sin(x)")
        looks = (("#56B4E9", "-"), ("#0072B2", "-"), ("#D55E00", "-"), ("#000000", "-"))
        for at, (shade, style) in zip(one["at"].values, looks, strict=False):
            shown.plot(one.x, one.output.sel(at=at), color=shade, linestyle=style, label=f"iteration {at}")
        shown.set(
            xlabel="x",
            title=f"member {one.attrs['seed']}, depth {one.attrs['depth']}, dies at iteration {one.attrs['death']}",
        )
        shown.legend(fontsize=7)

        final = tree["final"].share
        for ax, kind in zip(ends, final.kind.values, strict=True):
            for offset, name in enumerate(LABELS):
                values = 100 * final.sel(kind=kind, architecture=name).dropna("depth")
                middle, low, high = values.transpose("end", "depth").values
                x = values.depth.values * 1.04 ** (offset - 2)
                errors = np.maximum(0, [middle - low, high - middle])
                ax.errorbar(
                    x,
                    middle,
                    errors,
                    color=st.plots.colour(name),
                    marker="o",
                    markersize=3.5,
                    linewidth=1.3,
                    capsize=2,
                    label=LABELS[name],
                )
            ax.set(xscale="log", ylim=(-4, 104), xlabel="depth", ylabel=f"{kind} at the end, %")
            ax.set_xticks(final.depth.values, [str(v) for v in final.depth.values])
            ax.minorticks_off()
        ends[0].legend(fontsize=7, loc="center right")

        pooled = [tree[key_of(size, "plain_relu", depth=depth)] for depth in size.relu_depths]
        mover, distance = (np.concatenate([data[v].values for data in pooled]) for v in ("mover", "distance_in_rates"))
        bins = np.logspace(-2, 1.5, 15)
        groups = [np.clip(distance[mover == i], bins[0], bins[-1]) for i in range(len(MOVERS))]
        causes.hist(groups, bins, stacked=True, color=["#E69F00", "#009E73", "#CC79A7"], label=list(MOVERS))
        causes.axvline(1, color="#555555", linestyle="--", linewidth=1)
        causes.set(
            xscale="log",
            xlabel="pre-activation left one iteration before / rate",
            ylabel="deaths",
            title="what moved it under 0 most",
        )
        causes.legend(fontsize=7)
    return figure


def count(data: xarray.DataArray) -> int:
    return int(data.sum())


def table(runs: dict[str, xarray.Dataset]) -> None:
    """Print what became of the members of every run."""
    print(
        f"{'architecture':<17}{'init':<10}{'depth':>5}  {'method':<20}{'rate':>6}{'iterations':>11}{'seeds':>6}"
        f"{'born':>6}{'died':>6}{'back':>6}{'dead':>6}{'flat':>6}{'stuck':>6}{'off':>6}"
    )
    for data in runs.values():
        if "dead" not in data:
            continue
        a, iterations = data.attrs, data.iteration.size - 1
        died = data.iteration_of_death > 0
        back = (died | data.born_dead) & ~data.dead
        rate = f"{a['rate']:g}" if a["method"] == "adam" else ""
        print(
            f"{LABELS[a['architecture']]:<17}{a['init']:<10}{a['depth']:>5}  {a['method']:<20}{rate:>6}{iterations:>11}"
            f"{data.seed.size:>6}{count(data.born_dead):>6}{count(died):>6}{count(back):>6}{count(data.dead):>6}"
            f"{count(data.flat):>6}{count(data.stuck):>6}{float(data.off.mean()):>6.2f}"
        )
    print(
        "born, died in training, back at the end after either, dead, flat and stuck are numbers of members; off is the "
        "share of ReLUs that are off at all points at the end. Of plain ReLU chains only members alive at birth are in "
        "the rows, unless it says born.\n"
    )


def relu_findings(runs: dict[str, xarray.Dataset], size: Size, limit: float) -> list[str]:
    """Say of plain ReLU chains who dies, when, where, why and what helps."""
    layers = runs["births"]["pytorch"].to_numpy()
    base = {depth: runs[key_of(size, "plain_relu", depth=depth)] for depth in size.relu_depths}
    lines = [
        "Plain ReLU, born dead: "
        + "; ".join(f"depth {d} {percent(born_dead(layers, d), len(layers))}" for d in (*size.relu_depths, 100))
        + "."
    ]
    lines.append(
        "Of those alive at birth so many are dead at the end: "
        + "; ".join(f"depth {d} {percent(count(r.dead), r.seed.size)}" for d, r in base.items())
        + "."
    )
    parts = [r.isel(seed=(r.iteration_of_death > 0).values) for r in base.values()]
    everyone = xarray.concat([p.drop_vars("dead_by_iteration") for p in parts], "seed", combine_attrs="drop")
    n = everyone.seed.size
    if n == 0:
        return [*lines, "None died in training."]
    half, late = (float(everyone.iteration_of_death.quantile(q)) for q in (0.5, 0.9))
    back = count(~everyone.dead)
    lines.append(
        f"When: of {n} deaths in training half come by iteration {half:.0f} and nine in ten by iteration {late:.0f}. "
        f"Back at the end are {back} of {n}; {count(everyone.revivals > 0)} were alive again at some "
        f"iteration, of which {count((everyone.revivals > 0) & everyone.all_off)} had died of a layer that is off at "
        "all points. Where layers each are off at some points, together at all, the bias of one still has a gradient. "
        f"Training ends at the best parameters: there {count(everyone.dead & ~everyone.dead_at_best)} of the "
        f"{count(everyone.dead)} dead are still alive."
    )
    places = tree_layers(runs, size)
    lines.append(
        "Where: "
        + "; ".join(
            f"depth {d}: first layer {100 * places[d][0]:.0f} %, last {100 * places[d][-1]:.0f} %, even would be "
            f"{100 / d:.0f} %"
            for d in size.relu_depths
        )
        + "."
    )
    shares = [count(everyone.mover == i) for i in range(len(MOVERS))]
    near = everyone.distance_in_rates
    lines.append(
        f"Why: in {percent(count(everyone.all_off), n)} the killing layer is off at all points, in the others at those "
        "that the layers before leave. What moved it most: "
        + ", ".join(f"{name} {percent(k, n)}" for name, k in zip(MOVERS, shares, strict=True))
        + f". One iteration before, its highest pre-activation was {float(near.median()):.2g} learning rates above 0 "
        f"(median; 5 to 95 %: {float(near.quantile(0.05)):.2g} to {float(near.quantile(0.95)):.2g}), "
        f"{float(everyone.live_points.median()):.0f} points were alive, up to {float(everyone.live_points.max()):.0f}, "
        f"and the output varied by {float(everyone.range_before.median()):.2g} (median); "
        f"the gradient was over {CLIP:g}, where it is clipped, in {percent(count(everyone.gradient > CLIP), n)}. "
        f"{percent(count(everyone.loss_before < 0.9 * limit), n)} had got 10 % below the best constant before."
    )
    depth = size.rate_depth
    rates = {
        factor: runs[
            key_of(size, "plain_relu", depth=depth, rate=RATE * factor, iterations=round(size.iterations / factor))
        ]
        for factor in (FACTORS[0], 1.0, FACTORS[1])
    }
    low, usual, high = (data.dead.values for data in rates.values())
    for slow, fast, names in ((low, usual, (0.3, 1)), (usual, high, (1, 3))):
        saved, lost = int((fast & ~slow).sum()), int((slow & ~fast).sum())
        chance = binomtest(saved, saved + lost).pvalue if saved + lost else 1.0
        lines.append(
            f"Rate {names[0] * RATE:g} against {names[1] * RATE:g}, the same rate times iterations and members, depth "
            f"{depth}: the smaller one saves {saved} and loses {lost} (sign test, p = {chance:.1g}), "
            + ("so fewer die" if chance < 0.05 and saved > lost else "so it makes no difference that is seen here")
            + f": {percent(int(slow.sum()), len(slow))} against {percent(int(fast.sum()), len(fast))}."
        )
    lm = runs[key_of(size, "plain_relu", depth=depth, method="levenberg_marquardt", iterations=100)]
    lines.append(
        f"Levenberg-Marquardt, the same members: die {percent(count(lm.iteration_of_death > 0), lm.seed.size)}, dead "
        f"at the end {percent(count(lm.dead), lm.seed.size)}, stuck {percent(count(lm.stuck), lm.seed.size)}."
    )
    born = [runs[f"born dead {method}"] for method in ("adam", "levenberg_marquardt")]
    lines.append(
        "Of members born dead come back: "
        + ", ".join(
            f"by {m} {percent(count(~r.dead), r.seed.size)}"
            for m, r in zip(("Adam", "Levenberg-Marquardt"), born, strict=True)
        )
        + ". A layer that is off at all points lets no gradient reach itself or those before, and Adam leaves what "
        "never had one where it is."
    )
    return lines


def tree_layers(runs: dict[str, xarray.Dataset], size: Size) -> dict[int, Array]:
    places = layer_shares(runs, size).share.sel(when="training")
    return {depth: places.sel(depth=depth).values[:depth] for depth in size.relu_depths}


def verdicts(runs: dict[str, xarray.Dataset], size: Size) -> list[str]:
    """Hold the article's claims against the numbers."""
    lines, columns = [], ["born_dead", "iteration_of_death"]
    ever: dict[str, tuple[int, int]] = {}
    for name in LABELS:
        chosen = [r for r in runs.values() if r.attrs.get("architecture") == name and r.attrs["method"] == "adam"]
        one = xarray.concat(
            [r[columns].drop_vars("iteration", errors="ignore") for r in chosen], "seed", combine_attrs="drop"
        )
        ever[name] = count(one.born_dead | (one.iteration_of_death > 0)), one.seed.size
    for name in ("residual1_relu", "residual2_relu", "residual2_prelu", "plain_prelu"):
        by_depth = {d: runs[key_of(size, name, depth=d)] for d in size.depths}
        text = f"{LABELS[name]}: ever dead {percent(*ever[name])} over all starts and depths. "
        text += "; ".join(
            f"depth {d}: flat {count(r.flat_first)} at birth and {count(r.flat)} at the end, stuck {count(r.stuck)} of "
            f"{r.seed.size}"
            + (
                f", ReLUs off {100 * float(r.off_first.mean()):.0f} % at birth and "
                f"{100 * float(r.off.mean()):.0f} % at the end"
                if name.endswith("_relu")
                else ""
            )
            for d, r in by_depth.items()
        )
        lines.append(text + ".")
    flat = runs[key_of(size, "plain_prelu", depth=size.depths[-1])]
    lines.append(
        f"Plain PReLU at depth {size.depths[-1]}: the steepest slope anywhere is "
        f"10^{float(flat.log10_derivative.median()):.1f} in the median, and exactly 0 in "
        f"{count(~np.isfinite(flat.log10_derivative))} members: not dead, only vanished."
    )
    layers = runs["births"]["pytorch"].to_numpy()
    deep = born_dead(layers, 100) / len(layers)
    trained = [runs[key_of(size, "plain_relu", depth=d)] for d in size.relu_depths]
    rising = all(
        share(count(a.dead), a.seed.size)[0] < share(count(b.dead), b.seed.size)[0] for a, b in pairwise(trained)
    )
    lines.append(
        f"CLAIM, plain ReLU dies with more layers: {'HELD' if deep > 0.99 and rising else 'REFINED'}. At depth 100 "
        f"{100 * deep:.2f} % are dead before the first iteration, so it is the start and not the training that kills "
        "them; what is alive at birth dies the more often the deeper it is"
        + ("." if rising else ", which was not so in every case here.")
    )
    last, paired = (runs[key_of(size, name, depth=size.depths[-1])] for name in ("residual2_relu", "residual2_prelu"))
    relu, prelu, plain = (ever[name] for name in ("residual2_relu", "residual2_prelu", "plain_prelu"))
    lines.append(
        f"CLAIM, residual 2 ReLU can still die very deep: {'HELD' if relu[0] else 'REFUTED for members'}. {relu[0]} of "
        f"{relu[1]} are ever dead: where a ReLU is off the bypass has slope 1. What dies are single steps: at depth "
        f"{size.depths[-1]} {100 * float(last.off_first.mean()):.0f} % of the ReLUs at birth and "
        f"{100 * float(last.off.mean()):.0f} % at the end are off at all points; stuck after {size.iterations} "
        f"iterations are {percent(count(last.stuck), last.seed.size)}."
    )
    lines.append(
        f"CLAIM, PReLU solves the dying: {'REFUTED' if prelu[0] else 'HELD for residual chains'}. Ever dead are "
        f"{prelu[0]} of {prelu[1]} residual and {plain[0]} of {plain[1]} plain PReLU members, but of the plain ones at "
        f"depth {size.depths[-1]} {percent(count(flat.flat), flat.seed.size)} end flat: alive is not learning. "
        f"At that depth {percent(count(paired.stuck), paired.seed.size)} of residual 2 PReLU are stuck."
    )
    return lines


def main(settings: Settings) -> None:
    st.plots.make_folder(settings.out)  # before the work, not after it
    torch.set_num_threads(1)  # the tensors here are so small that to wake a thread takes longer than what it does
    size = QUICK if settings.quick else FULL
    task = st.Task(torch.sin, (-3, 3), points=128)
    runs = experiments(size, settings.seed, task)
    tree = runs | {
        "example": example(runs, size, settings.seed, task),
        "layers": layer_shares(runs, size),
        "final": final_shares(runs, size),
    }
    table(runs)
    for line in relu_findings(runs, size, st.references.constant(task)) + verdicts(runs, size):
        print(textwrap.fill(line, 100, subsequent_indent="    "))
    paths = st.plots.save(draw(tree, size), xarray.DataTree.from_dict(tree), settings.out, "training_death")
    print("\nWritten: " + ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
