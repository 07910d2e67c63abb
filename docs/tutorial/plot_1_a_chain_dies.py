"""
1. A chain dies
===============

Peng's article of 2017 strips a deep network to one neuron a layer. The state is
one number, and a step of the plain chain is ``h -> relu(w h + b)``. Stacked
deep enough, says the article, the chain dies: whatever goes in, 0 comes out.
When does it die, and does training wake it?
"""

import matplotlib as mpl
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

x = torch.linspace(-3, 3, 64, dtype=torch.float64)
# Five hundred members, each with random weights of its own.
chain = st.Chain("plain_relu", depth=20, seeds=500)
formula = chain.architecture.formula
print(f"{chain.seeds} chains of {chain.depth} steps {formula}")

# %%
# Born dead
# ---------
#
# A member is dead when its derivative is exactly 0 at every point: its output
# is a constant, and no gradient reaches the layers before the one that killed
# it. ``st.spectrum`` gives the derivative after every layer of every member.
# ``vanished`` tells where it is exactly 0, which is not the same as too small
# for floating point.

spectrum = st.spectrum(chain, x, progress=False)
vanished = spectrum.vanished[..., 0]  # (layer, seed, point)
dead = vanished.all(dim=2).double().mean(dim=1)
expected = {
    depth: st.theory.born_dead_by_sampling(depth, (-3, 3))
    for depth in (1, 2, 3, 5, 10)
}
print("depth  dead   theory")
for depth, theory in expected.items():
    print(f"{depth:5}  {dead[depth - 1]:5.1%}  {theory.value:.1%}")

# %%
# The share rises from layer to layer and none comes down: a dead state stays
# dead. It agrees with theory, which draws lines at random and multiplies the
# chances that the next layer leaves something of them. At a single point half
# of the states die in every layer, by a coin toss for the sign of ``w h + b``.
# An interval dies a little later, for all of it must fall on the wrong side.
#
# Dead by training
# ----------------
#
# Those that are born alive are not safe. ``st.watch_deaths`` looks at every
# iteration of a training on ``sin(x)``.

task = st.Task(torch.sin, (-3, 3))
limit = st.references.best_monotone(task)
constant = st.references.constant(task)
records, losses, trained = {}, {}, {}
for depth in (3, 5, 10):
    trained[depth] = members = st.Chain("plain_relu", depth, seeds=100)
    records[depth] = record = st.watch_deaths(members, task.x)
    history = st.train(
        members, task, iterations=400, on_iteration=record, progress=False
    )
    losses[depth] = history.best_loss
    born, died = (record.born > 0).sum(), (record.iteration_of_death >= 0).sum()
    woken = (record.revivals > 0).sum()
    print(f"depth {depth}: {born} born dead, {died} died, {woken} woken")
    best, median = losses[depth].min(), losses[depth].median()
    print(f"  of {members.seeds}; error: best {best:.3f}, median {median:.3f}")
print(f"best constant {constant:.3f}, best monotone function {limit:.3f}")

# %%
# Training kills more members than it wakes. The median member is the best
# constant, the mean of the sine. The best of the shallow ones comes near the
# best monotone function and cannot pass it: each step is monotone, so the chain
# is, and the sine is not.

figure, axes = st.plots.panels("ab", height=2.8)
axes["a"].plot(
    range(1, chain.depth + 1),
    100 * dead,
    color=st.plots.colour("plain_relu"),
    label="measured",
)
shares = [100 * theory.value for theory in expected.values()]
axes["a"].plot(list(expected), shares, "o", color="#D55E00", label="theory")
axes["a"].set(
    xlabel="depth",
    ylabel="members born dead (%)",
    ylim=(0, 103),
    title="before training",
)
axes["a"].legend()
st.plots.fits(
    trained[3], axes["b"], colour=st.plots.colour("plain_relu"), task=task
)
axes["b"].set(ylim=(-1.3, 1.3), title="3 layers, trained on sin(x)")
words = (
    f"Of plain ReLU chains of 5 layers {dead[4]:.0%} are born dead; "
    "trained ones of 3 layers only rise or only fall."
)
figure = st.plots.headline(figure, words)

# %%
# **The article's claim holds.** It dies by its architecture, from the first
# forward pass on, and exactly: no more digits, no other optimiser brings back a
# derivative of 0. The next chapters add a way around the layer.
