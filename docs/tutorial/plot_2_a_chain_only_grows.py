"""
2. A chain only grows
=====================

A bypass around the layer keeps the state alive: the step is now ``h -> h +
relu(w h + b)``. Nothing dies. But a ReLU is never negative, so no step ever
takes anything away. The article says that such a chain can only grow, and that
its output stays above its input. Is this all that stops it from being a sine?
"""

import matplotlib as mpl
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

task = st.Task(torch.sin, (-3, 3))
limit, constant = (
    st.references.best_above_identity(task),
    st.references.constant(task),
)
print(f"best function above x: {limit:.3f}; best constant: {constant:.3f}")

# %%
# The limit of the architecture
# -----------------------------
#
# Where the sine lies above ``x`` a chain may follow it. Where it lies below,
# the best that the chain can do is ``x``. ``st.references`` gives the error of
# that function. Chains of growing depth are trained and held against it.

chains, best, lowest = {}, {}, {}
print("depth  best error  least f(x) - x")
for depth in (3, 10, 30):
    chains[depth] = st.Chain("residual1_relu", depth, seeds=32)
    history = st.train(chains[depth], task, iterations=800, progress=False)
    rise = st.evaluate(chains[depth], task.x) - task.x
    best[depth], lowest[depth] = (
        history.best_loss.min().item(),
        rise.min().item(),
    )
    print(f"{depth:5}  {best[depth]:10.4f}  {lowest[depth]:14.1e}")

# %%
# No member is below ``x`` at any point. The best members come to the limit and
# stay there at every depth, so training is not what fails: a chain of this kind
# is worse than a constant, and more layers do not help it.
#
# What the sign of the branch has to do with it
# ---------------------------------------------
#
# The bypass alone is not to blame. A PReLU lets through a part of what is below
# 0, so that the branch has both signs. Here is the same chain with that one
# change, trained by Levenberg-Marquardt.

signed = st.Architecture("residual1_prelu", skip=1, maps=1, activation="prelu")
freed = st.Chain(signed, depth=30, seeds=8, init="knots")
freed_loss = st.train(
    freed, task, "levenberg_marquardt", iterations=100, progress=False
).best_loss
freed_rise = (st.evaluate(freed, task.x) - task.x).min().item()
print(f"{freed.architecture.formula}: best error {freed_loss.min():.1e}")
print(f"least f(x) - x {freed_rise:.2f}")

# %%
# It goes below ``x``, and far below the limit.

figure, axes = st.plots.panels("ab", height=2.8)
for letter, chain, name in (
    ("a", chains[30], "residual1_relu"),
    ("b", freed, "residual1_prelu"),
):
    st.plots.fits(chain, axes[letter], colour=st.plots.colour(name), task=task)
    axes[letter].plot(task.x, task.x, ":", color="black", linewidth=1)
    axes[letter].text(-1.7, -2.4, "y = x", fontsize=7)
    axes[letter].set(ylim=(-3.2, 3.2))
axes["a"].set_title("ReLU: never below x")
axes["b"].set_title("PReLU: branches of both signs")
words = (
    "With a bypass of one layer ReLU chains stay above x, at an error of "
    f"{best[30]:.2f}; PReLU chains do not."
)
figure = st.plots.headline(figure, words)

# %%
# **The article's claim holds, for ReLU.** Here the architecture fails, and
# neither the training nor the arithmetic has a part in it. The sign of the
# branch is what matters. The article gives the branch its sign by another
# layer, which leads to the next chapter.
