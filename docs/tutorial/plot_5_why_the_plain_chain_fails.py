"""
5. Why the plain chain fails
============================

Without a bypass, PReLU steps ``h -> prelu(w h + b)`` fold too: a negative slope
makes a V of a line. Yet the article cannot fit a sine with them, and calls it a
matter of numerical stability. Three things may be at fault: the arithmetic, the
start, or the slopes. Each is changed here while the others stay.
"""

import dataclasses
from decimal import Decimal

import matplotlib as mpl
import numpy as np
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

task = st.Task(torch.sin, (-3, 3), points=32)
limit, constant = (
    st.references.best_monotone(task),
    st.references.constant(task),
)
print(f"best constant {constant:.3f}, best monotone function {limit:.3f}")

# %%
# The arithmetic
# --------------
#
# ``st.references.adam_in`` makes one and the same run of Adam in other
# arithmetic: in 24 and 53 bits, and in 50 decimal digits, in which nothing
# underflows.

kinds = {"24 bits": np.float32, "53 bits": np.float64, "50 digits": Decimal}
few = st.Task(torch.sin, (-3, 3), points=8)
digits = {}
for depth in (10, 30):
    chain = st.Chain("plain_prelu", depth, seeds=2)
    for name, kind in kinds.items():
        digits[name, depth] = st.references.adam_in(kind, chain, few, 150)
        print(
            f"depth {depth}, {name:>9}: errors {digits[name, depth].round(5)}"
        )
change = max(
    abs(digits[name, d] / digits["50 digits", d] - 1).max()
    for name in kinds
    for d in (10, 30)
)
print(f"largest relative change by more digits: {change:.0e}")

# %%
# The errors are the same. More digits do not help: the arithmetic is not what
# fails.
#
# The start
# ---------
#
# The derivative fades by a factor a layer, on its way forward and back. The
# gradient that reaches the first layer of 30 is far below the 1e-8 that Adam
# adds to its denominators, and Adam takes it for 0. Without this epsilon Adam
# is deaf to scale. Or the chain may start from weights and slopes of -1 and 1,
# through which nothing fades.

signs = dataclasses.replace(
    st.INITS["pytorch"],
    name="signs",
    weight=st.Distribution("sign"),
    slope=st.Distribution("sign"),
    readout_weight=st.Distribution("uniform"),
)
starts = {
    "as torch starts": ("pytorch", 1e-8),
    "the same, epsilon 0": ("pytorch", 0.0),
    "signs": (signs, 1e-8),
}
errors, gradients, below = {}, {}, {}
for name, (init, epsilon) in starts.items():
    chain = st.Chain("plain_prelu", depth=30, seeds=32, init=init)
    (chain(task.x) - task.y).square().mean(dim=1).sum().backward()
    gradients[name] = chain.weight.grad[:, 0].abs().median().item()
    errors[name] = st.references.adam_in(np.float64, chain, task, 800, epsilon)
    below[name] = float((errors[name] < 0.98 * limit).mean())
    print(f"{name}: first gradient {gradients[name]:.0e}")
    print(f"  below the best monotone function: {below[name]:.0%}")

# %%
# From torch's start no member gets anywhere. Without epsilon some do, from the
# same start in the same arithmetic. From signs most do. The start is what
# fails.
#
# The slopes
# ----------
#
# A start that fades nothing is the identity, too: weights and slopes of 1. If
# slopes are then held at 0 or above, every step is monotone, and so is the
# chain.

held = st.Chain("plain_prelu", depth=30, seeds=4, init="identity")
held_loss = st.train(
    held, task, iterations=800, least_slope=0.0, progress=False
).best_loss
free = st.Chain("plain_prelu", depth=30, seeds=32, init=signs)
free_loss = st.train(free, task, iterations=800, progress=False).best_loss
held_turns, free_turns = (
    st.count(chain, (-3, 3)).turns for chain in (held, free)
)
print(f"slopes of 0 or above, from the identity: best {held_loss.min():.3f}")
print(f"  turns: {max(held_turns)} at most")
print(f"free slopes, from signs: best {free_loss.min():.1e}")
print(f"  turns: {min(free_turns)} or more")

# %%
# This chain trains, and it stops where any monotone function must stop. Only
# negative slopes take it further.

figure, axes = st.plots.panels("ab", height=2.8)
for row, name in enumerate(starts):
    axes["a"].plot(
        np.sort(errors[name]),
        row + np.linspace(-0.25, 0.25, 32),
        ".",
        color=st.plots.colour("plain_prelu"),
    )
axes["a"].axvline(limit, color="black", linestyle=":", linewidth=1)
axes["a"].set_yticks(range(3), [name.replace(", ", ",\n") for name in starts])
axes["a"].set(
    xscale="log",
    ylim=(2.5, -0.5),
    xlabel="final error; dotted, the best monotone function",
)
axes["a"].set_title("30 steps, a dot a member")
st.plots.fits(
    held, axes["b"], colour="#CC79A7", task=task, label="slopes of 0 or above"
)
st.plots.fits(
    free,
    axes["b"],
    colour=st.plots.colour("plain_prelu"),
    task=task,
    label="free, from signs",
)
axes["b"].set(ylim=(-1.9, 1.6), title="best fits")
words = (
    f"A start through which signals pass takes {below['signs']:.0%} of plain "
    "chains below the monotone limit."
)
figure = st.plots.headline(figure, words)

# %%
# **The article's word is refined.** If "numerical stability" means rounding, it
# is refuted. If it means that signals fade on their way through the layers, it
# holds: the start is the first obstacle. The slopes are the second, and the
# arithmetic is none.
