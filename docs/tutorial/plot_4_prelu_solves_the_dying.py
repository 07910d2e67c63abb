"""
4. PReLU solves the dying
=========================

A residual ReLU chain folds, but the article fears for it: if it is very deep,
it may die after all. Its remedy is a PReLU, whose slope below 0 starts at a
quarter and is trained. What does the PReLU solve, and what is left unsolved?
"""

import math

import matplotlib as mpl
import torch

import stability as st

mpl.rcParams.update(st.plots.STYLE)

x = torch.linspace(-3, 3, 16, dtype=torch.float64)
names = ["plain_relu", "plain_prelu", "residual2_relu", "residual2_prelu"]
spectra = {
    name: st.spectrum(st.Chain(name, depth=200, seeds=100), x, progress=False)
    for name in names
}

# %%
# Dead, or only small
# -------------------
#
# A derivative can be exactly 0, or so small that a floating-point format rounds
# it to 0. The first is what the article calls dead. ``st.spectrum`` tells them
# apart, because it sums logarithms and never forms the product.

zero, lost, decades = {}, {}, {}
print("after 200 layers  exactly 0  0 in float32  median log10 |J|")
for name, spectrum in spectra.items():
    zero[name] = spectrum.vanished[-1].double().mean().item()
    lost[name] = (
        (spectrum.vanished | spectrum.underflows(torch.float32))[-1]
        .double()
        .mean()
        .item()
    )
    decades[name] = spectrum.log_values[-1].median().item() / math.log(10)
    row = f"{zero[name]:9.0%}  {lost[name]:12.0%}  {decades[name]:16.1f}"
    print(f"{name:16}  {row}")

# %%
# With PReLU nothing is exactly 0, in the plain chain either. The residual ReLU
# chain is not dead even so: where its ReLU is off, the bypass passes the state
# on as it is. What the PReLU leaves in the plain chain is a derivative that
# float32 cannot hold, which is the subject of the next chapter.
#
# After training
# --------------
#
# Do members die in training? And does a chain that is alive learn? Both
# residual chains are trained on ``sin(x)``, at a moderate depth and at a great
# one, and ``st.spectrum`` looks for zeros again.

task = st.Task(torch.sin, (-3, 3))
constant = st.references.constant(task)
dead, losses, chains = {}, {}, {}
for depth, seeds, iterations in ((30, 16, 1000), (300, 4, 200)):
    for name in names[2:]:
        chains[name, depth] = chain = st.Chain(name, depth, seeds=seeds)
        losses[name, depth] = st.train(
            chain, task, iterations=iterations, progress=False
        ).best_loss
        vanished = st.spectrum(chain, x, progress=False).vanished[-1, ..., 0]
        dead[name, depth] = vanished.all(dim=1).sum().item()
        median = losses[name, depth].median()
        print(f"{name}, depth {depth}: median error {median:.1e}")
        print(f"  dead: {dead[name, depth]} of {seeds}")
deep = st.Chain("residual2_prelu", depth=300, seeds=2)
deep_loss = st.train(
    deep, task, "growth", iterations=100, progress=False
).best_loss
print(f"residual2_prelu, depth 300, grown: {deep_loss.max():.1e} at worst")
print(f"best constant {constant:.2f}")

# %%
# None dies, with ReLU or with PReLU. At the great depth Adam leaves both far
# above what it reached at the moderate one. Growth, which inserts steps as
# identities one after the other, brings the same deep chain to a better fit
# than Adam has at any depth. So the deep chain can do it, its numbers can hold
# it, and the training by Adam is what fails.

figure, axes = st.plots.panels("ab", height=2.8)
for name, spectrum in spectra.items():
    st.plots.spectrum(spectrum, axes["a"], colour=st.plots.colour(name))
axes["a"].axhline(
    math.log10(torch.finfo(torch.float32).tiny),
    color="black",
    linestyle=":",
    linewidth=1,
)
axes["a"].text(199, -36, "float32 ends", fontsize=7, ha="right")
axes["a"].set(ylim=(-160, 30), title="before training")
ends = {
    name.replace("_", " "): value
    for name, value in decades.items()
    if math.isfinite(value)
}
st.plots.end_labels(
    axes["a"],
    ends,
    {name.replace("_", " "): st.plots.colour(name) for name in names[1:]},
)
st.plots.fits(
    chains["residual2_prelu", 300],
    axes["b"],
    colour="#999999",
    task=task,
    label="Adam",
)
st.plots.fits(
    deep,
    axes["b"],
    colour=st.plots.colour("residual2_prelu"),
    task=task,
    label="growth",
)
axes["b"].set(ylim=(-1.6, 1.6), title="300 steps, trained")
size = f"$10^{{{decades['plain_prelu']:.0f}}}$"
words = (
    "PReLU chains are never dead, but the derivative of a plain one is "
    f"{size} after 200 layers."
)
figure = st.plots.headline(figure, words)

# %%
# **The claim holds, and is refined.** PReLU does solve the dying. The residual
# chain, though, was not dying in the sense of an exact zero, and a living chain
# of great depth is still hard to train from a random start.
