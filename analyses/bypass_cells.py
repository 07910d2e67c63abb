"""The cells of bypass.py: Hessians, growth, one update and trainings of chains with a bypass of one to three maps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import xarray

import stability as st
import study

#: The slope that linear chains are to learn, and where the sine is learned.
SLOPE = 1.7
INTERVAL = (-3, 3)
MAPS = (1, 2, 3)
#: The block of one map whose ReLU comes first.
FIRST = "1, ReLU first"
STARTS = ("all maps zero", "last map zero")


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
