"""
3. A chain folds
================

A bypass of two layers has a second map behind the ReLU: ``h -> h + wb relu(wa h
+ ba) + bb``. The factor ``wb`` may be negative, and then the step bends the
picture down: it folds it, as one folds paper. The article says that a chain of
these keeps folding, and that it can fit any function if it is deep enough. Both
can be checked exactly.
"""

import matplotlib as mpl
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

task = st.Task(torch.sin, (-3, 3))
chain = st.Chain("residual2_relu", depth=7, seeds=32)
history = st.train(chain, task, iterations=1500, progress=False)
best = int(history.best_loss.argmin())
table = chain.table()[
    best : best + 1
]  # the steps of the best member, six numbers each
print(f"best error {history.best_loss[best]:.1e}")

# %%
# Fold by fold
# ------------
#
# Whatever a chain of one neuron makes of a line is a piecewise-linear function.
# ``st.restrict`` returns it with all of its knots, and ``st.count`` counts them
# as integers, without rounding: a fold is a point where the slope changes, a
# turn one where it changes its sign.

steps = {
    depth: st.restrict(table[:, :depth], (-3, 3))[0]
    for depth in range(1, chain.depth + 1)
}
counts = {depth: line.count() for depth, line in steps.items()}
for depth, count in counts.items():
    print(f"after step {depth}: {count.folds} folds, {count.turns} turns")
grown = st.Chain("residual2_relu", depth=30, seeds=4)
grown_loss = st.train(
    grown, task, "growth", iterations=150, progress=False
).best_loss
grown_counts = st.count(grown, (-3, 3))
print(f"30 steps, grown one by one: error {grown_loss.median():.1e}")
print(f"folds {grown_counts.folds}, turns {grown_counts.turns}")

# %%
# Folds add up, and the two turns of the sine appear. Grown chains have the
# sine's turns and an error that is smaller by orders of magnitude.
#
# How many folds there can be
# ---------------------------
#
# Each step may fold the whole of what came before, and double it. The tent is
# the chain that always does. Its folds outnumber the numbers that float64 has,
# and are counted all the same.

tents = {
    depth: st.count(st.tent(depth), (0, 1)).folds
    for depth in (1, 2, 3, 10, 1000)
}
print(f"tent of 10 steps: {tents[10]} folds")
print(f"tent of 1000 steps: 2^1000 - 1 folds, {tents[1000] == 2**1000 - 1}")

# %%
# What cannot be folded
# ---------------------
#
# A step is monotone or shaped like a V. So a chain takes its whole range on
# some stretch on which it is monotone. A function that takes its range on no
# such stretch is out of reach at any depth. ``st.references.nearest_chain``
# says how far.

targets = {
    "sin x": torch.sin,
    "x + 1.5 sin 3x": lambda x: x + 1.5 * torch.sin(3 * x),
}
wavy = st.Task(targets["x + 1.5 sin 3x"], (-3, 3))
bounds = {
    name: st.references.nearest_chain(st.Task(f, (-3, 3), points=2001))
    for name, f in targets.items()
}
attempt = st.Chain("residual2_relu", depth=30, seeds=16)
st.train(attempt, wavy, iterations=600, progress=False)
nearest = (st.evaluate(attempt, wavy.x) - wavy.y).abs().amax(dim=1).min().item()
for name, bound in bounds.items():
    print(f"{name}: the largest error of any chain is at least {bound:.2f}")
print(f"the best of {attempt.seeds} trained chains: {nearest:.2f}")

# %%
# The bound is 0 for the sine: nothing forbids that fit. For the other function
# it is a bound for every depth, and training stays above it.

figure, axes = st.plots.panels("abc", height=2.8)
shade = st.plots.colour("residual2_relu")
for depth, line in steps.items():
    last = depth == chain.depth
    st.plots.function(
        line,
        axes["a"],
        colour=shade,
        alpha=1.0 if last else 0.12 * depth,
        marks=last,
    )
axes["a"].set(
    xlabel="x", ylabel="h(x) after each step", title="7 steps, the last dark"
)
folds = {depth: [count.folds] for depth, count in counts.items()}
st.plots.counts(folds, axes["b"], label="trained", colour=shade)
st.plots.counts(
    {d: [2**d - 1] for d in counts}, axes["b"], label="tent", colour="#D55E00"
)
axes["b"].set(ylabel="folds", title="how folds grow")
st.plots.fits(attempt, axes["c"], colour=shade, task=wavy)
axes["c"].set_title("x + 1.5 sin 3x, dashed")
made = counts[chain.depth]
words = (
    f"{chain.depth} steps make {made.folds} folds and {made.turns} turns of a "
    "line, but not every function."
)
figure = st.plots.headline(figure, words)

# %%
# **The first claim holds**: a chain folds, and the folds can double at every
# step. **The second is refuted**: one neuron a layer cannot fit any function,
# however deep it is.
