"""Why does a residual block pass two layers by, and not one or three?

Question. A block is h <- h + branch(h), and its branch has one affine map, two or three. Is two special: at the start,
for signals and gradients, for updates, for folds, or for the error after training?

Method. Hessian: linear chains of one neuron are fitted to 1.7 x from two starts at which every block is the identity: all
maps zero, or the last map of each branch alone. All eigenvalues are taken. Signals: fresh ReLU chains of width 32,
initialised as He et al., their branches times L^0, L^-1/2 or L^-1; growth of the state from the input to the output, and of
the gradient on its way back. The branch of one map ends in its ReLU; beside it stands one whose ReLU comes first. Updates: tanh chains of width 16 take one sign step (Adam's first) that changes the output by
about 30 %. Beside it every layer is made linear in its update; what this changes is the share of the second order
within layers. Training: PReLU chains of one neuron fit sin(x) on (-3, 3), by Adam from two starts for all bypasses, by
Levenberg-Marquardt (LM) for one and two maps, and by growth for two, the only ones that the method can grow. ReLU chains
of one and two maps are those of the article. Folds are counted exactly for one and two maps, and followed for three.

Reading. a: condition number of the Hessian at zero (solid) and with the last map alone zero (dashed, median). b: growth of
signals (lines) and gradients (crosses) against depth; the style of a line is the power of L. c: share of the second order,
solid L^-1/2, dashed L^-1. d: mean square error after training against depth, medians. Figure bypass_folds: a, folds before
(dotted) and after Adam from torch's start; b, the norm of the gradient at the starts of a.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

import stability as st
import study

SLOPE = 1.7
INTERVAL = (-3, 3)
MAPS = (1, 2, 3)
FIRST = "1, ReLU first"
SHADES = {1: "#E69F00", 2: "#0072B2", 3: "#CC79A7"}
STARTS = ("all maps zero", "last map zero")
POWERS = {0.0: "-", -0.5: "--", -1.0: ":"}
LABELS = {0.0: "$L^0$", -0.5: "$L^{-1/2}$", -1.0: "$L^{-1}$"}
#: Errors and growth beyond these are drawn at the edge.
MOST_GROWTH, MOST_ERROR = 12.0, 1.0


@dataclass(frozen=True)
class Settings(study.Settings):
    """Why does a residual block pass two layers by, and not one or three?"""

    hessian_depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)  # Of the linear chains.
    depths: tuple[int, ...] = (3, 10, 30, 100, 300)  # Of the networks of width 32, and of those that are trained.
    updated_depths: tuple[int, ...] = (10, 20, 40, 80, 160)  # Of the networks that take a step.
    seeds: int = 12  # Networks of each kind at the start.
    trained_seeds: int = 16  # Chains that are trained.
    counted_seeds: int = 6  # Of these, chains of three maps whose folds are followed.
    iterations: int = 300  # Of Adam.
    points: int = 64  # Of the sine.


def constant(value: float) -> st.Distribution:
    return st.Distribution("constant", value)


def at_start(start: str, maps: int, depth: int, settings: Settings) -> xarray.Dataset:
    """Return the condition number of the Hessian of linear chains, and the gradient's norm."""
    architecture = st.Architecture(f"linear{maps}", skip=1, maps=maps, activation="linear")
    weight = constant(0) if start == STARTS[0] or maps == 1 else st.Distribution("normal")
    zero = {name: constant(0) for name in ("bias", "outer_weight", "outer_bias")}
    init = dataclasses.replace(st.INITS["pytorch"], name="zero", weight=weight, **zero)
    chain = st.Chain(architecture, depth, seeds=settings.seeds, init=init, root=settings.seed)
    for name, values in chain.named_parameters():
        values.requires_grad_(name.endswith("weight"))
    x = torch.linspace(-1, 1, 33, dtype=torch.float64)
    found = st.hessian(chain, x, lambda y: (y - SLOPE * x).square().mean(dim=1))
    negative = found.negative.double() / found.parameters
    values = {"condition": found.condition, "negative": negative, "gradient": found.gradient_norm}
    return xarray.Dataset({name: ("seed", one.numpy()) for name, one in values.items()})


def growth(block: str, power: float, depth: int, settings: Settings) -> xarray.Dataset:
    """Return log10 of the growth of signals and of gradients from one end of a network to the other."""
    maps, order = int(block[0]), ("activation", "map", "add") if block == FIRST else "between"
    architecture = st.Architecture(f"relu{block}", skip=1, maps=maps, order=order, branch_power=power)
    net = st.Chain(architecture, depth, seeds=settings.seeds, width=32, init="he", root=settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    x, towards = torch.randn(2, 8, 32, dtype=torch.float64, generator=generator)
    norms = st.propagation(net, x).log_norms
    back = st.gradient_norms(net, x, lambda y: (y * towards).sum(dim=(1, 2)))
    found = {"signal": (norms[-1] - norms[0]).mean(dim=1), "back": back["input"][0] - back.output}
    return xarray.Dataset({name: ("seed", one.numpy() / np.log(10)) for name, one in found.items()})


def second_order(maps: int, power: float, depth: int, settings: Settings) -> xarray.Dataset:
    """Return which share of an update's effect is not linear in the update of each layer."""
    architecture = st.Architecture(f"tanh{maps}", skip=1, maps=maps, activation="tanh", branch_power=power)
    init = dataclasses.replace(st.INITS["he"], name="lecun", weight=st.Distribution("normal", width_power=-0.5))
    net = st.Chain(architecture, depth, seeds=settings.seeds, width=16, init=init, root=settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    x, towards = torch.randn(2, 8, 16, dtype=torch.float64, generator=generator)
    (net(x) * towards).sum().backward()
    signs = {name: values.grad.sign() for name, values in net.named_parameters()}
    size, start = torch.ones(settings.seeds, dtype=torch.float64), x.repeat(settings.seeds, 1, 1)

    def run(way: str) -> torch.Tensor:
        """Return the output after the update, that of layers linear in it, or the output's derivative by it."""
        h, change = start, torch.zeros_like(start)
        for place, step in enumerate(net.steps):
            values = {name: one.detach() for name, one in step.values.items()}
            update = {name: torch.einsum("s,s...->s...", size, signs[name][:, place]) for name in values}

            def out(values, h, step=step):
                return dataclasses.replace(step, values=values)(h)

            if way == "whole":
                h = out({name: values[name] + update[name] for name in values}, h)
            elif way == "linear layers":
                h = sum(torch.func.jvp(out, (values, h), (update, torch.zeros_like(h))))
            else:
                h, change = torch.func.jvp(out, (values, h), (update, change))
        return change if way == "derivative" else h

    before = net(x).detach()
    size = 0.3 * before.flatten(1).norm(dim=1) / run("derivative").flatten(1).norm(dim=1)
    after, linear = run("whole"), run("linear layers")
    share = (after - linear).flatten(1).norm(dim=1) / (after - before).flatten(1).norm(dim=1)
    return xarray.Dataset({"share": ("seed", share.numpy())})


#: How chains are trained: bypass, activation, start, method.
RUNS = {
    f"{maps} {kind}": (maps, *how)
    for kind, how, bypasses in (
        ("Adam", ("prelu", "pytorch", "adam"), MAPS),
        ("Adam, identity", ("prelu", "identity", "adam"), MAPS),
        ("Adam, ReLU", ("relu", "pytorch", "adam"), (1, 2)),
        ("LM", ("prelu", "identity", "levenberg_marquardt"), (1, 2)),
        ("growth", ("prelu", "knots", "growth"), (2,)),
    )
    for maps in bypasses
}


def trained(run: str, depth: int, settings: Settings) -> xarray.Dataset:
    """Return the errors of trained chains at fresh points, and their folds before and after."""
    maps, activation, init, method = RUNS[run]
    architecture = st.Architecture(f"residual{maps}_{activation}", skip=1, maps=maps, activation=activation)
    chain = st.Chain(architecture, depth, seeds=settings.trained_seeds, init=init, root=settings.seed)
    counted = range(settings.counted_seeds if maps == 3 else settings.trained_seeds)
    few = st.Chain(architecture, depth, seeds=counted, init=init, root=settings.seed)
    before = st.count(few, INTERVAL).folds.astype(float)
    task = st.Task(torch.sin, INTERVAL, points=settings.points)
    more = {"iterations": settings.iterations} if method == "adam" else {}
    st.train(chain, task, method, progress=False, **more)
    x = torch.linspace(*INTERVAL, 2001, dtype=torch.float64)
    with torch.no_grad():
        error = (chain(x) - x.sin()).square().mean(dim=1).numpy()
        for name, values in few.named_parameters():
            values.copy_(chain.get_parameter(name)[: len(counted)])
    after = st.count(few, INTERVAL).folds.astype(float)
    found = {"error": ("seed", error), "before": ("counted", before), "after": ("counted", after)}
    return xarray.Dataset(found)


def measure(settings: Settings, parts: study.Parts) -> xarray.DataTree:
    torch.set_num_threads(1)  # matrices this small are multiplied faster by one
    blocks, depths = [*map(str, MAPS), FIRST], list(settings.depths)
    groups = {
        "start": parts.cells(at_start, settings, start=STARTS, maps=MAPS, depth=settings.hessian_depths),
        "growth": parts.cells(growth, settings, block=blocks, power=list(POWERS), depth=depths),
        "update": parts.cells(
            second_order, settings, maps=MAPS, power=[-0.5, -0.75, -1.0], depth=settings.updated_depths
        ),
        "trained": parts.cells(trained, settings, run=list(RUNS), depth=depths),
    }
    return xarray.DataTree.from_dict(groups)


def claims(data: xarray.DataTree) -> list[study.Claim]:
    return []


def draw(data: xarray.DataTree) -> Figure:
    return st.plots.panels("a", height=2)[0]


if __name__ == "__main__":
    quick = Settings(
        hessian_depths=(2, 8, 32), depths=(3, 10, 30), updated_depths=(10, 20, 40), seeds=4, trained_seeds=4,
        counted_seeds=2, iterations=40,
    )  # fmt: skip
    study.main(Settings(), quick, measure, draw, claims)
