"""Is depth a time: are the steps of a residual chain the Euler steps of a differential equation, trained ones as well?

Question. Peng reads a very deep chain as an iteration, "a differential equation rich in iteration". A step h + f(h) / L
is an Euler step of dh/dt = f(h). How near are chains to that equation, which trained chains are near one at all, and
what may be taken over from equations: gradients by the adjoint equation, and steps of half the size, twice as many?

Method. Fresh chains under 1 / L, with weights that are smooth along the depth, are held against their equation by
`st.flow`, those under 1 / sqrt(L) with independent weights against the stochastic one. The adjoint method goes back from
the output by Euler steps of the equation for the state and for its gradient, and keeps no states; its gradient is set
against that of the backward pass, which is the exact one of the chain. Chains of 30 steps with a read-out are trained
on sin(x), free ones of width 1 by growth, Levenberg-Marquardt (LM) and Adam, and under 1 / L of width 1 and 2 by Adam.
Of each step the largest |J - I| on the points is taken; then each step is divided into k steps of a k-th of its size.

Reading. a: root mean square distance of chains from their flow. b: relative difference of the two gradients, lines of
fresh chains, dots of trained ones. c: how far the steps are from the identity, the farthest first; a step above the
dashed line alone may turn the line. d: error after the division. Medians over seeds; bands, their quartiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def draw(data):
    return st.plots.panels("a", height=2)[0]


def claims(data):
    for n in data.data_vars:
        print(n, data[n].dims)
    print(data.distance.median("seed").to_pandas(), data.order.to_pandas(), data.adjoint.median("seed").to_pandas())
    print(data.error.median("seed_trained").to_pandas(), data.turns.median("seed_trained").to_pandas())
    print(data.step_distance.median("seed_trained").to_pandas().iloc[:,:8], data.trained_adjoint.median("seed_trained").to_pandas())
    print(data.stochastic_order.values, data.off.values[:,:,1], data.off_half.values[:,:,1])
    return []


if __name__ == "__main__":
    quick = Settings(depths=(5, 10, 20), seeds=2, samples=80, depth=6, trained_seeds=4, iterations=(60, 40), parts=(1, 2, 8))
    study.main(Settings(), quick, measure, draw, claims)
