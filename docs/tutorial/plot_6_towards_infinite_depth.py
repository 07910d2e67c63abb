"""
6. Towards infinite depth
=========================

The article's title is *Towards infinitely deep networks*. If each layer is not
close to the identity, it ends, the product of all layers diverges or vanishes.
How close must a layer be? And what can a network still do if its layers come so
close?
"""

import math

import matplotlib as mpl
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

x = torch.linspace(-3, 3, 16, dtype=torch.float64)
names = {0.0: "free", -0.5: "1/sqrt(L)", -1.0: "1/L"}
shades = {0.0: "#0072B2", -0.5: "#E69F00", -1.0: "#CC79A7"}


def scaled(power):
    """Residual steps whose branch is multiplied by a power of the depth."""
    return st.Architecture("scaled", skip=1, maps=2, branch_power=power)


# %%
# The gradient against the depth
# ------------------------------
#
# The branch of each step is multiplied by 1, by ``1/sqrt(L)`` or by ``1/L``.
# What is left of the gradient at the first layer as the chain gets deeper?
# ``st.fit_growth`` along the depth gives the law, with an interval over the
# members.

depths = (10, 30, 100, 300)
remaining, laws = {}, {}
for power, name in names.items():
    chains = [
        st.Chain(scaled(power), depth, seeds=100, init="he") for depth in depths
    ]
    results = [
        st.gradient_norms(chain, x, lambda y: y.mean(dim=1)) for chain in chains
    ]
    first = torch.stack(
        [result.log_norms["input"][0] for result in results]
    ) / math.log(10)
    remaining[name], laws[name] = first, st.fit_growth(results, along="depth")
    spread = first[-1].quantile(0.95) - first[-1].quantile(0.05)
    print(f"{name}: {laws[name].verdict.split(';')[0]}")
    print(f"  members of depth 300 part by {spread:.1f} decades")

# %%
# Free steps make the gradient a product of random factors, and the members part
# by many decades. Under both factors it keeps its order of magnitude. One
# distance from the identity does not serve all depths: it has to shrink as the
# depth grows.
#
# A flow
# ------
#
# Under ``1/L``, with weights that change smoothly along the layers, the steps
# are Euler steps of a differential equation. ``st.flow`` solves it, and
# measures how fast chains come near.

smooth = st.Architecture(
    "residual2_tanh", skip=1, maps=2, activation="tanh", branch_power=-1
)
flow = st.flow(
    smooth,
    torch.linspace(-2, 2, 5, dtype=torch.float64),
    depths=(10, 100, 1000),
    seeds=8,
)
low, high = flow.depths[0], flow.depths[-1]
print(f"L from {low} to {high}: distance as L^-{flow.order.value:.3f}")

# %%
# The distance falls as the inverse of the depth. An infinitely deep chain of
# this kind is a flow on the line. Two points on a line cannot pass each other
# without meeting, and a flow never lets them meet: it is monotone.
#
# What small steps can fold
# -------------------------
#
# A step turns the line only where its slope is negative, so that it is farther
# than 1 from the identity. Are small steps too small for a sine, then? Adam
# trains chains of 100 steps under ``1/L``, and growth trains free ones.

task = st.Task(torch.sin, (-3, 3))
limit = st.references.best_monotone(task)
cases = {
    "1/L, Adam": (-1.0, "adam", 500, {"rate": 0.03}),
    "free, grown": (0.0, "growth", 150, {}),
}
trained, errors, turns, steep = {}, {}, {}, {}
for name, (power, method, iterations, options) in cases.items():
    trained[name] = chain = st.Chain(scaled(power), depth=100, seeds=4)
    errors[name] = st.train(
        chain, task, method, iterations, progress=False, **options
    ).best_loss
    skip, weight, _, outer, _, slope = (
        torch.from_numpy(chain.table()[:, :100, column]) for column in range(6)
    )
    above, below = skip + outer * weight, skip + outer * weight * slope
    steep[name] = ((above < 0) | (below < 0)).sum(dim=1).tolist()
    turns[name] = st.count(chain, (-3, 3)).turns
    print(f"{name}: best error {errors[name].min():.1e}, turns {turns[name]}")
    print(f"  steps with a negative slope: {steep[name]} of {chain.depth}")
print(f"best monotone function {limit:.1e}")

# %%
# The scaled chain has no step with a negative slope and no turn. It cannot pass
# the best monotone function. The grown chain has both, and passes it by orders
# of magnitude, with a few such steps among many.

figure, axes = st.plots.panels("abc", height=2.8)
for (power, name), first in zip(names.items(), remaining.values(), strict=True):
    low, middle, high = first.quantile(
        torch.tensor([0.05, 0.5, 0.95], dtype=first.dtype), dim=1
    )
    axes["a"].plot(
        depths, middle, "o-", markersize=3, color=shades[power], label=name
    )
    axes["a"].fill_between(
        depths, low, high, color=shades[power], alpha=0.15, linewidth=0
    )
axes["a"].set(
    xscale="log",
    xlabel="depth L",
    ylabel=r"$\log_{10}$ of the first gradient",
    title="before training",
)
axes["a"].legend(loc="lower left")
st.plots.flow(flow, axes["b"])
axes["b"].set_title("b", loc="left", fontweight="bold")
axes["b"].set_title("before training")
st.plots.fits(
    trained["1/L, Adam"],
    axes["c"],
    colour=shades[-1.0],
    task=task,
    label="1/L, by Adam",
)
st.plots.fits(
    trained["free, grown"],
    axes["c"],
    colour=shades[0.0],
    task=task,
    label="free, grown",
)
axes["c"].set(title="100 steps, trained", ylim=(-1.6, 2.0))
words = (
    "Steps divided by the depth keep the gradient and tend to a flow, and a "
    "flow of one neuron folds nothing."
)
figure = st.plots.headline(figure, words)

# %%
# **The article's remark holds, and is refined.** Close to the identity is no
# fixed distance, it depends on the depth. And it has a price: with one neuron a
# layer, steps that are all close to the identity fold nothing. A wider layer
# does not pay it, for in a plane points can go around each other.
