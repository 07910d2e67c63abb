"""Which members of a chain die in training, in which layer, why, and do they come back?

Question. Peng (2017) says of the plain ReLU chain that it dies, of the residual one that very deep it can still die,
and that PReLU solves the dying. How many members are dead before the first step, how many die in training on sin(x),
where and by what, how many are only flat or stuck? Does a smaller learning rate or another method help?

Method. A member is dead when its derivative is exactly 0 at every point, flat when its output varies by less than 1 %
of the target's range, stuck when its best error is not below 0.99 of the best constant's. Its layer of death is the
first behind which all derivatives are 0. Every step of training is looked at: a member is alive where one point has no
zero factor on its way, and only those without such a witness are decided exactly, at all points. Plain ReLU chains are
mostly born dead, so many are drawn and those alive are trained. For a death in training the step before says what moved
the killing layer's pre-activation under 0, at the point where it was highest: its weight, its bias, or the layers
before it. Shares have 95 % Wilson intervals.

Reading. Top: share of plain ReLU members that are dead against the step, those born dead as the offset; in which layer,
a row a depth, percent of the deaths at birth and in training; one member as it dies. Bottom: dead, flat and stuck
members at the end against depth; what made the members die, by the distance that was left in units of the rate.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Settings:
    """Which members of a chain die in training, where and why."""

    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer seeds, steps and depths: under 10 seconds."""
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
    """Looks at every step of a training, and keeps when and where each member died first, and the tables around it."""

    def __init__(self, chain: st.Chain, x: torch.Tensor) -> None:
        self.chain, self.x = chain, x
        self.table = chain.table()
        self.layer, self.witness = death_layers(chain, x)
        self.born, self.start = self.layer.copy(), self.table.copy()
        self.step_of_death = np.full(chain.seeds, -1)
        self.layer_of_death = np.zeros_like(self.layer)
        self.revivals = np.zeros_like(self.layer)
        self.before, self.after = self.table.copy(), self.table.copy()
        self.dead_by_step: list[Array] = []

    def __call__(self, step: int, _losses: torch.Tensor) -> None:
        table = self.chain.table()
        # The dead stay dead as long as nothing up to their layer of death moves.
        beyond = np.arange(table.shape[1]) >= self.layer[:, None]
        unmoved = (self.layer > 0) & ((table == self.table).all(2) | beyond).all(1)
        open_ = np.flatnonzero(~unmoved & ~self._alive(table))
        layer = np.where(unmoved, self.layer, 0)
        if open_.size:
            chain = st.Chain.from_table(table[open_], self.chain.architecture)
            layer[open_], self.witness[open_] = death_layers(chain, self.x)
        first = (layer > 0) & (self.step_of_death < 0) & (self.born == 0)
        self.step_of_death[first], self.layer_of_death[first] = step, layer[first]
        self.before[first], self.after[first] = self.table[first], table[first]
        self.revivals += (self.layer > 0) & (layer == 0)
        self.layer, self.table = layer, table
        self.dead_by_step.append(layer > 0)

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
    steps: int = 1000,
    rate: float = RATE,
    method: str = "adam",
) -> xarray.Dataset:
    """Train members and return by seed what became of them; `step` has the dead in between."""
    chain = st.Chain(architecture, depth, seeds=members, init=init, root=root)
    watch = Watch(chain, task.x)
    first = shape_of(chain, task)
    history = st.train(chain, task, method, steps, rate=rate, clip=CLIP, on_step=watch)
    if history.interrupted:
        raise SystemExit(1)
    kept = death_layers(chain, task.x)[0] > 0  # the chain is at its best parameters now
    chain.set_table(watch.table)
    last = shape_of(chain, task)
    data: dict[str, Any] = {
        "born_dead": watch.born > 0,
        "dead": watch.layer > 0,
        "step_of_death": watch.step_of_death,
        "layer_of_death": watch.layer_of_death,
        "revivals": watch.revivals,
        "dead_at_best": kept,
        "stuck": (history.best_loss >= 0.99 * st.references.constant(task)).numpy(),
        "loss": history.best_loss.numpy(),
        **{f"{name}_first": value for name, value in first.items()},
        **last,
    }
    data = {name: ("seed", value) for name, value in data.items()} | deaths(watch, task, history, rate)
    dead = np.array(watch.dead_by_step).mean(1)
    dead = np.concatenate([dead, np.full(steps + 1 - len(dead), dead[-1])])  # a run may converge before its end
    data["dead_by_step"] = ("step", dead.astype(np.float32))
    return xarray.Dataset(data, {"seed": list(chain.members), "step": np.arange(steps + 1)})


def deaths(watch: Watch, task: st.Task, history: st.History, rate: float) -> dict[str, Any]:
    """Return by seed why it died: NaN and -1 for those that did not, or not in training, and for other chains.

    With z = w h + b the killing layer's pre-activation at the point where it was highest among those then alive, the
    step's change of z is, exactly, (w' - w) h' + (b' - b) + w (h' - h).
    """
    seeds = watch.chain.seeds
    names = ("distance", "drop", *(f"drop_{i}" for i in range(len(MOVERS))), "live_points", "gradient", "loss_before")
    found = {name: np.full(seeds, np.nan) for name in names}
    mover, all_off = np.full(seeds, -1), np.zeros(seeds, dtype=bool)
    died = np.flatnonzero(watch.step_of_death > 0) if watch.chain.architecture.name == "plain_relu" else []
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
        found["loss_before"][s] = history.loss[watch.step_of_death[s] - 1, s]
    if len(died):
        chain = st.Chain.from_table(watch.before[died], watch.chain.architecture)
        (chain(task.x) - task.y).square().mean(1).sum().backward()
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
    steps: int
    relu_depths: tuple[int, ...]
    depths: tuple[int, ...]
    init_depth: int
    rate_depth: int


FULL = Size(32768, 256, 700, (3, 5, 10), (3, 10, 30, 100), 30, 5)
QUICK = Size(2048, 48, 150, (3, 5), (3, 10), 10, 3)


def alive_members(layers: Array, depth: int, seeds: int) -> list[int]:
    """Return the first members that are alive at birth at a depth."""
    alive: list[int] = np.flatnonzero((layers == 0) | (layers > depth))[:seeds].tolist()
    return alive


def experiments(size: Size, root: int, task: st.Task) -> dict[str, xarray.Dataset]:
    """Return all trainings by name, "architecture/init/depth/method/rate", and the births of plain ReLU chains."""
    runs: dict[str, xarray.Dataset] = {}

    def add(name: str, depth: int, members: Sequence[int] | int, init: str = "pytorch", **options: Any) -> None:
        method, rate = options.get("method", "adam"), options.get("rate", RATE)
        steps = options.pop("steps", size.steps)
        data = train(name, depth, members, task, root, init, steps, **options)
        data.attrs = {"architecture": name, "init": init, "depth": depth, "method": method, "rate": rate}
        runs[f"{name} {init} {depth} {method} {rate:g} {steps}"] = data

    born = {}
    for init in ("pytorch", "he"):
        born[init] = births(init, (*size.relu_depths, 100), size.draws, task, root)
        for depth in size.relu_depths:
            add("plain_relu", depth, alive_members(born[init], depth, size.seeds), init)
    few = alive_members(born["pytorch"], size.rate_depth, size.seeds)
    # Thrice and a third of the rate, over as many steps, and over as many as have the same rate times steps.
    for factor in (0.3, 3.0):
        for steps in (size.steps, round(size.steps / factor)):
            add("plain_relu", size.rate_depth, few, rate=RATE * factor, steps=steps)
    add("plain_relu", size.rate_depth, few, method="levenberg_marquardt", steps=100)
    # That the dead at birth do not come back, and Levenberg-Marquardt's way with them.
    dead = np.flatnonzero((born["pytorch"] > 0) & (born["pytorch"] <= size.rate_depth))[: size.seeds].tolist()
    runs["born dead adam"] = train("plain_relu", size.rate_depth, dead, task, root, steps=size.steps)
    runs["born dead levenberg_marquardt"] = train(
        "plain_relu", size.rate_depth, dead, task, root, steps=100, method="levenberg_marquardt"
    )
    add("residual2_relu", 10, size.seeds, method="levenberg_marquardt", steps=60)
    for name in LABELS:
        for depth in size.depths if name != "plain_relu" else ():
            add(name, depth, size.seeds)
    for init, names in INITS.items():
        for name in names:
            add(name, size.init_depth, size.seeds, init)
    runs["births"] = xarray.Dataset({init: ("member", layers) for init, layers in born.items()})
    return runs
