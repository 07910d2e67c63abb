"""Which members of a chain die in training, in which layer, why, and do they come back?

Question. Peng (2017) says that the plain ReLU chain dies, that a very deep residual one can still die, and that PReLU
solves the dying. How many members are dead before the first iteration? How many die in training on sin(x), where and
why, and how many are only flat or stuck? Does a smaller learning rate or another method help?

Method. A member is dead if its derivative is exactly 0 at every point, flat if its output varies by less than 1 % of
the target's range, stuck if its best error is not below 0.99 of the best constant's. It dies in the first layer behind
which all derivatives are 0. `st.watch_deaths` looks at every iteration of every member. Most plain ReLU chains are born
dead, so many are drawn, and those alive are trained. The iteration before a death shows what moved the killing layer's
highest pre-activation at a living point below 0: its weight, its bias, or the layers before it. Shares have 95 %
intervals (Wilson); two ways of training the same members are compared by a sign test.

Reading. a: share of plain ReLU members that are dead; dotted: born dead. b: the same of those born alive, at three
rates for one depth. c: dead members at the end. d: what moved the pre-activation most, against its last distance from 0
in units of the rate. The other figure: a, the layers of death, a row a depth; b, one member as it dies; c and d, flat
and stuck members at the end (residual 1 ReLU is always stuck, as f(x) >= x).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

import stability as st
import study

RESIDUAL2 = ("residual2_relu", "residual2_prelu")
INITS = {"he": ("plain_prelu", *RESIDUAL2), "scaled": RESIDUAL2, "knots": RESIDUAL2, "identity": ("plain_prelu",)}
RATE, CLIP = 0.01, 1.0
#: Of the rate; the iterations are so many that rate times iterations stays the same.
FACTORS = (0.3, 1.0, 3.0)
LM = "levenberg_marquardt"
TASK = st.Task(torch.sin, (-3, 3), points=128)


@dataclass(frozen=True)
class Settings(study.Settings):
    draws: int = 32768  # Plain ReLU members that are drawn.
    seeds: int = 256  # Of these, members that are trained at each depth.
    others: int = 64  # Members of every other chain.
    iterations: int = 500  # Of Adam.
    relu_depths: tuple[int, ...] = (3, 5, 10)
    """Depths of plain ReLU chains; the last but one gets several rates and methods."""
    depths: tuple[int, ...] = (3, 10, 30, 100)  # Depths of all other chains; the last but one gets several starts.


@dataclass(frozen=True)
class Run:
    """One training: its name is the place of its results in the data."""

    architecture: str
    depth: int
    init: str = "pytorch"
    method: str = "adam"
    factor: float = 1.0
    born: str = "alive"

    def __str__(self) -> str:
        return ", ".join(map(str, astuple(self)))


def runs_of(settings: Settings) -> dict[str, Run]:
    depth = settings.relu_depths[-2]
    runs = [Run("plain_relu", d, init) for init in ("pytorch", "he") for d in settings.relu_depths]
    runs += [Run("plain_relu", depth, factor=factor) for factor in FACTORS if factor != 1]
    runs += [Run("plain_relu", depth, method=LM)]
    runs += [Run("plain_relu", depth, method=method, born="dead") for method in ("adam", LM)]
    runs += [Run(name, d) for name in study.CHAINS if name != "plain_relu" for d in settings.depths]
    runs += [Run(name, settings.depths[-2], init) for init, names in INITS.items() for name in names]
    return {str(run): run for run in [*runs, Run("residual2_relu", 10, method=LM)]}


def births(init: str, settings: Settings) -> xarray.Dataset:
    """Return the layer of death of plain ReLU members before training, 0 for those alive at depth 100.

    A depth is the prefix of the next, so those dead at one are not looked at again.
    """
    layers = np.zeros(settings.draws, dtype=np.int16)
    for depth in (*settings.relu_depths, 100):
        alive = np.flatnonzero(layers == 0)
        for part in np.array_split(alive, -(-len(alive) // 4096)):
            chain = st.Chain("plain_relu", depth, seeds=part.tolist(), init=init, root=settings.seed)
            layers[part] = st.watch_deaths(chain, TASK.x).layer
    return xarray.Dataset({"layer": ("draw", layers)})


def shape_of(chain: st.Chain) -> dict[str, torch.Tensor]:
    """Return which members are flat, the share of their ReLUs that are off at all points, and log10 max |f'|."""
    with torch.no_grad():
        output, h, off = chain(TASK.x), TASK.x, []
        for step in chain.steps:
            off.append((step.weight[:, None] * h + step.bias[:, None] <= 0).all(1))
            h = step(h)
    relu = float(chain.architecture.phi.slope == 0)
    steepest = st.spectrum(chain, TASK.x).log_values[-1].amax((1, 2)) / np.log(10)
    flat = output.amax(1) - output.amin(1) < 0.01 * (TASK.y.max() - TASK.y.min())
    return {"flat": flat, "off": relu * torch.stack(off).double().mean(0), "log10_derivative": steepest}


def trained(name: str, born: xarray.DataArray, settings: Settings) -> xarray.Dataset:
    run = runs_of(settings)[name]
    members = np.arange(settings.others)
    if run.architecture == "plain_relu":
        layers = born.sel(init=run.init).to_numpy()
        dead = (layers > 0) & (layers <= run.depth)
        members = np.flatnonzero(dead == (run.born == "dead"))[: settings.seeds]
    chain = st.Chain(run.architecture, run.depth, seeds=members.tolist(), init=run.init, root=settings.seed)
    first, record = shape_of(chain), st.watch_deaths(chain, TASK.x)
    options = {"rate": RATE * run.factor, "clip": CLIP} if run.method == "adam" else {}
    iterations = round(settings.iterations / run.factor) if options else settings.iterations // 5
    history = st.train(chain, TASK, run.method, iterations, on_iteration=record, progress=False, **options)
    at_best = st.watch_deaths(chain, TASK.x).layer > 0  # the chain is at its best parameters now
    chain.set_table(record.table.numpy())
    seen, stuck = record.to_dataset(), history.best_loss >= 0.99 * st.references.constant(TASK)
    number = seen.dead.sum("seed").to_numpy()
    data = {"member": members, "born_dead": seen.born > 0, "dead": record.layer > 0, "dead_at_best": at_best}
    data |= {kind: seen[kind] for kind in ("iteration_of_death", "layer_of_death", "revivals")}
    data |= {f"{kind}_first": value for kind, value in first.items()} | shape_of(chain)
    data |= {"stuck": stuck, "loss": history.best_loss} | before_death(record, history.loss.numpy())
    found = {kind: ("seed", np.asarray(values, dtype=np.float32)) for kind, values in data.items()}
    # A training may converge before its last iteration.
    found["dead_by_iteration"] = ("iteration", np.append(number, np.full(iterations + 1 - len(number), number[-1])))
    return record.causes().astype(np.float32).drop_vars("seed").assign(found)


def before_death(record: st.DeathRecord, losses: np.ndarray) -> dict[str, np.ndarray]:
    """Return the loss, the gradient and the range of the output one iteration before a death, NaN without one."""
    found = {name: np.full(len(record.born), np.nan) for name in ("loss_before", "gradient", "range_before")}
    died = np.flatnonzero(record.iteration_of_death > 0)
    if died.size:
        chain = st.Chain.from_table(record.before[died].numpy(), record.chain.architecture)
        output = chain(TASK.x)
        (output - TASK.y).square().mean(1).sum().backward()
        squares = [p.grad.square().reshape(len(died), -1).sum(1) for p in chain.parameters() if p.grad is not None]
        found["loss_before"][died] = losses[record.iteration_of_death.numpy()[died] - 1, died]
        found["gradient"][died] = torch.stack(squares).sum(0).sqrt().numpy()
        found["range_before"][died] = (output.amax(1) - output.amin(1)).detach().numpy()
    return found


def example(one: xarray.Dataset, depth: int, settings: Settings) -> xarray.Dataset:
    """Train the member that varied most one iteration before it died for good again, alone: it takes the same path."""
    gone = (one.iteration_of_death > 0) & (one.dead > 0)
    place = int(np.argmax(one.range_before.where(gone, -1).to_numpy()))
    member, death = int(one.member[place]), max(0, int(one.iteration_of_death[place]))
    chain, outputs = st.Chain("plain_relu", depth, seeds=[member], root=settings.seed), []
    options = {"rate": RATE, "clip": CLIP, "progress": False, "iterations": settings.iterations}
    st.train(chain, TASK, on_iteration=lambda *_: outputs.append(chain(TASK.x).detach()[0].numpy()), **options)
    at = sorted({0, max(0, death - 5), max(0, death - 1), death})
    data = {"example": (("at", "x"), np.stack([outputs[k] for k in at])), "target": ("x", TASK.y.numpy())}
    return xarray.Dataset(data, {"at": at, "x": TASK.x.numpy()}).assign(example_member=member, example_death=death)


def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset:
    born = parts.cells(births, settings, init=["pytorch", "he"]).layer.astype(np.int16)
    runs = runs_of(settings)
    data = parts.cells(trained, born, settings, run=list(runs))
    columns = zip(*map(astuple, runs.values()), strict=True)
    data = data.assign_coords({f.name: ("run", list(column)) for f, column in zip(fields(Run), columns, strict=True)})
    shallow = Run("plain_relu", settings.relu_depths[0])
    shown = parts.part("example", example, members_of(data, shallow), shallow.depth, settings)
    birth = born.drop_vars("draw").to_dataset(name="birth").rename(init="start")
    about = {"depths": settings.depths, "relu_depths": settings.relu_depths, "constant": st.references.constant(TASK)}
    return xarray.merge([data, shown, birth]).assign_attrs(about)


def members_of(data: xarray.Dataset, run: Run) -> xarray.Dataset:
    """Return the results of a run, without the places that other runs have more."""
    one = data.sel(run=str(run))
    return one.isel(seed=np.flatnonzero(one.dead.notnull()))


def born_dead(data: xarray.Dataset, depth: int) -> tuple[int, int]:
    """Return how many plain ReLU members are dead before training, and how many were drawn."""
    layers = data.birth.sel(start="pytorch").to_numpy()
    return int(((layers > 0) & (layers <= depth)).sum()), layers.size


def sign_test(one: xarray.Dataset, other: xarray.Dataset) -> tuple[str, bool]:
    """Say how many members the first training saves and loses against the other, and whether it saves more."""
    saved, lost = int(((other.dead > 0) & (one.dead == 0)).sum()), int(((one.dead > 0) & (other.dead == 0)).sum())
    chance = binomtest(saved, saved + lost).pvalue if saved + lost else 1.0
    return f"saves {saved} and loses {lost} (sign test: p = {chance:.1g})", chance < 0.05 and saved > lost


def ever_dead(data: xarray.Dataset, name: str) -> tuple[int, int]:
    """Return how many members of an architecture were ever dead, over all depths and starts, and how many there are."""
    some = data.isel(run=np.flatnonzero((data.architecture == name) & (data.method == "adam")))
    return int(((some.born_dead > 0) | (some.iteration_of_death > 0)).sum()), int(some.dead.notnull().sum())


def listed(name: str, some: dict[Any, xarray.Dataset]) -> str:
    """Say how many are dead at the end, by what `name` says of the key."""
    return ", ".join(f"{name.format(key)} {study.count(one.dead > 0)}" for key, one in some.items())


def died_of(data: xarray.Dataset) -> xarray.Dataset:
    runs = (members_of(data, Run("plain_relu", int(depth))).drop_vars("run") for depth in data.relu_depths)
    parts = [one.isel(seed=np.flatnonzero(one.iteration_of_death > 0)) for one in runs]
    return xarray.concat(parts, "seed", data_vars="minimal", coords="minimal", compat="override")


def claims(data: xarray.Dataset) -> list[study.Row]:
    depths, deepest, practice = [int(depth) for depth in data.relu_depths], int(data.depths[-1]), "common practice"
    relu, depth = {depth: members_of(data, Run("plain_relu", depth)) for depth in depths}, depths[-2]
    births = "born dead: " + "; ".join(f"depth {d} {study.percent(*born_dead(data, d))}" for d in (*depths, 100))
    births += f". Born alive and dead at the end: {listed('depth {}', relu)}"
    deep = born_dead(data, 100)
    grows = deep[0] > 0.99 * deep[1] and all(a.dead.mean() < b.dead.mean() for a, b in pairwise(relu.values()))
    names = ("residual2_relu", "residual2_prelu", "plain_prelu")
    last, paired, plain = (members_of(data, Run(name, deepest)) for name in names)
    ever, *others = (ever_dead(data, name) for name in names)
    off = f"ever dead: {study.percent(*ever)}; stuck at depth {deepest}: {study.count(last.stuck > 0)}. Of its ReLUs "
    off += f"{100 * last.off_first.mean():.0f} % are off everywhere at birth, {100 * last.off.mean():.0f} % at the end"
    prelu = ", ".join(f"{study.CHAINS[k]} {study.percent(*v)}" for k, v in zip(names[1:], others, strict=True))
    slope = float(plain.log10_derivative.median())
    prelu = f"ever dead: {prelu}. At depth {deepest} plain ones end flat: {study.count(plain.flat > 0)}, with a "
    prelu += f"steepest slope of 10^{slope:.0f} (median); residual 2 stuck: {study.count(paired.stuck > 0)}"
    solved = "refuted" if any(count for count, _ in others) else "refined" if plain.flat.mean() > 0.5 else "held"
    gone, ways = died_of(data), {"Adam": "adam", "Levenberg-Marquardt": LM}
    again = {way: members_of(data, Run("plain_relu", depth, method=how, born="dead")) for way, how in ways.items()}
    back = f"of deaths in training {study.count(gone.dead == 0)} are alive at the end, {study.count(gone.revivals > 0)}"
    back += " were alive again at some iteration. Born dead and still so at the end: " + listed("by {}", again)
    returned = any((one.dead == 0).any() for one in (gone, *again.values()))
    half, late = gone.iteration_of_death.quantile([0.5, 0.9]).to_numpy()
    low, middle, high = (gone.distance / RATE).quantile([0.05, 0.5, 0.95]).to_numpy()
    moved, clipped = gone.drop_by.argmax("mover"), gone.gradient > CLIP
    why = f"half of the deaths come by iteration {half:.0f}, nine in ten by {late:.0f}. Just before, the highest"
    why += f" pre-activation is {middle:.2g} learning rates above 0 (5 to 95 %: {low:.2g} to {high:.2g}), and the "
    why += f"gradient above the clip in {study.count(clipped)}. It was moved most by "
    why += ", ".join(f"{name} {study.count(moved == i)}" for i, name in enumerate(data.mover.values))
    why += f". The whole layer is off in {study.count(gone.all_off > 0)}. Below 0.9 of the best constant were "
    why += study.count(gone.loss_before < 0.9 * data.constant)
    rates = {factor * RATE: members_of(data, Run("plain_relu", depth, factor=factor)) for factor in FACTORS}
    tests = [sign_test(slow, fast) for slow, fast in pairwise(rates.values())]
    slower = f"depth {depth}, dead at the end: {listed('rate {:g}', rates)}. Each against the next larger: "
    slower += "; ".join(text for text, _ in tests)
    saves = "held" if all(better for _, better in tests) else "refined" if tests[0][1] else "refuted"
    second = members_of(data, Run("plain_relu", depth, method=LM))
    text, better = sign_test(second, rates[RATE])
    lm = f"depth {depth}: it {text}; dead at the end {study.count(second.dead > 0)}, stuck "
    lm += study.count(second.stuck > 0)
    return [
        ("Plain ReLU dies with more layers", "Peng 2017", births, "held" if grows else "refined"),
        ("A very deep residual 2 ReLU can die", "Peng 2017", off, ever[0] > 0),
        ("PReLU solves the dying", "Peng 2017", prelu, solved),
        ("The dead never come back", practice, back, "refined" if returned else "held"),
        ("Members die of one large gradient", practice, why, clipped.values.mean() > 0.5),
        ("A smaller learning rate saves members", practice, slower, saves),
        ("Levenberg-Marquardt kills fewer than Adam", practice, lm, better),
    ]


def draw(data: xarray.Dataset) -> dict[str, Figure]:
    ends, deepest = [int(data.relu_depths[k]) for k in (0, -1)], int(data.depths[-1])
    born = [100 * count / of for count, of in (born_dead(data, depth) for depth in ends)]
    later = [100 * float(members_of(data, Run("plain_relu", depth)).dead.mean()) for depth in ends]
    others = sum(ever_dead(data, name)[0] for name in study.CHAINS if name != "plain_relu")
    flat = 100 * float(members_of(data, Run("plain_prelu", deepest)).flat.mean())
    (deaths, first), (where, second) = (st.plots.panels("ab;cd", height=5.6) for _ in range(2))
    draw_deaths(data, first["a"], first["b"])
    draw_causes(died_of(data), first["d"])
    most = draw_layers(data, second["a"])
    draw_example(data, second["b"])
    for kind, ax in (("dead", first["c"]), ("flat", second["c"]), ("stuck", second["d"])):
        draw_ends(data, kind, ax)
    finding = f"{born[0]:.0f} % of plain ReLU chains are born dead at depth {ends[0]}, {born[1]:.1f} % at depth "
    finding += f"{ends[1]}; {later[0]:.0f} % and {later[1]:.0f} % of the others are dead after training. Of all "
    finding += f"other chains {others or 'none'} ever died."
    other = f"At depth {ends[1]} layer {most[0]} kills most members at birth, and layer {most[1]} in training. Plain "
    other += f"PReLU chains of depth {deepest} never die, but {flat:.0f} % of them end flat."
    return {"": st.plots.headline(deaths, finding), "where": st.plots.headline(where, other)}


def draw_deaths(data: xarray.Dataset, whole: Axes, part: Axes) -> None:
    depths, all_ends, part_ends = list(map(int, data.relu_depths)), {}, {}
    shades = dict(zip(depths, ("#AAAAAA", "#666666", "#000000"), strict=False))
    styles = dict(zip(FACTORS, ("--", "-", "-."), strict=True))
    for depth, factor in [*((depth, 1.0) for depth in depths), (depths[-2], FACTORS[0]), (depths[-2], FACTORS[2])]:
        one = members_of(data, Run("plain_relu", depth, factor=factor))
        dead = (100 * one.dead_by_iteration / one.sizes["seed"]).dropna("iteration")
        part.plot(dead.iteration + 1, dead, styles[factor], color=shades[depth])
        part_ends[f"depth {depth}, rate {RATE * factor:g}"] = float(dead[-1])
        if factor == 1:
            count, of = born_dead(data, depth)
            total = 100 * count / of + (1 - count / of) * dead
            whole.plot(total.iteration + 1, total, color=shades[depth])
            whole.axhline(100 * count / of, color=shades[depth], linestyle=":", linewidth=1)
            all_ends[f"depth {depth}"] = float(total[-1])
    lowest = min(all_ends.values()) - 20
    for ax, words, ends, low in ((whole, "all drawn", all_ends, lowest), (part, "those born alive", part_ends, 0)):
        ax.set(xscale="log", xlabel="iteration + 1", ylabel=f"dead of {words}, %", ylim=(low, 102))
        st.plots.end_labels(ax, ends)


def draw_ends(data: xarray.Dataset, kind: str, ax: Axes) -> None:
    """Draw the share of members that are dead, flat or stuck at the end; of plain ReLU chains that of all drawn."""
    heights, relu_depths, depths = {}, list(map(int, data.relu_depths)), list(map(int, data.depths))
    deeper = [depth for depth in depths if depth > relu_depths[-1]]
    for offset, (name, label) in enumerate(study.CHAINS.items()):
        rows, plain = [], name == "plain_relu"
        for depth in [*relu_depths, *deeper] if plain else depths:
            count, of = born_dead(data, depth) if plain else (0, 1)
            ends = np.zeros(3)  # of those deeper than any that was trained, all but a few are born dead
            if not (plain and depth in deeper):
                one = members_of(data, Run(name, depth))[kind]
                ends = np.array(study.wilson(one.sum(), one.size))
            rows.append([depth * 1.05 ** (offset - 2), *(100 * count / of + (1 - count / of) * ends)])
        x, middle, low, high = np.array(rows).T
        errors, look = np.maximum(0, [middle - low, high - middle]), {"marker": "o", "markersize": 3, "capsize": 1.5}
        ax.errorbar(x, middle, errors, color=st.plots.colour(name), **look)
        heights[label] = middle[-1]
    ax.set(xscale="log", ylim=(-4, 104), xlabel="depth", ylabel=f"{kind} at the end, %")
    st.plots.ticks(ax, x=sorted({*depths, *relu_depths}))
    st.plots.end_labels(ax, heights, study.SHADES)


def draw_causes(died: xarray.Dataset, ax: Axes) -> None:
    mover, distance = died.drop_by.argmax("mover").to_numpy(), died.distance.to_numpy() / RATE
    bins = np.logspace(-2, 1.5, 15)
    groups = [np.clip(distance[mover == i], bins[0], bins[-1]) for i in range(died.sizes["mover"])]
    ax.hist(groups, bins, stacked=True, color=["#009E73", "#CC79A7", "#999999"], label=list(died.mover.values))
    ax.axvline(1, color="#555555", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlim=(2e-3, 60), xlabel="last pre-activation / rate", ylabel="deaths in training")
    ax.legend(title="moved most by", loc="upper left", fontsize=7, title_fontsize=7, handlelength=1)


def draw_layers(data: xarray.Dataset, ax: Axes) -> list[int]:
    """Write which share of the deaths each layer has; return the layers that kill most at the last depth."""
    depths, layers, rows = list(map(int, data.relu_depths)), data.birth.sel(start="pytorch").to_numpy(), []
    for depth in depths:
        one = members_of(data, Run("plain_relu", depth))
        born = layers[(layers > 0) & (layers <= depth)]
        later = one.layer_of_death.to_numpy()[one.iteration_of_death.to_numpy() > 0].astype(int)
        counts = [np.bincount(found, minlength=depth + 1)[1 : depth + 1] for found in (born, later)]
        most = [int(found.argmax()) + 1 for found in counts]
        rows += [np.append(100 * found / max(1, found.sum()), np.full(depths[-1] - depth, np.nan)) for found in counts]
    names = [f"depth {depth}, {when}" for depth in depths for when in ("birth", "training")]
    st.plots.numbers(ax, rows, names, [str(layer + 1) for layer in range(depths[-1])], most=75)
    ax.set(xlabel="layer of death, % of the deaths")
    return most


def draw_example(data: xarray.Dataset, ax: Axes) -> None:
    ax.plot(data.x, data.target, color="#999999", linestyle="--")
    heights, shades = {"sin x": float(data.target[-1])}, {"sin x": "#777777"}
    for one, shade in zip(data.example, ("#CC79A7", "#009E73", "#882255", "#000000"), strict=False):
        ax.plot(data.x, one, color=shade)
        heights[f"iteration {int(one['at'])}"], shades[f"iteration {int(one['at'])}"] = float(one[-1]), shade
    ax.set(xlabel="x", ylabel=f"output of member {int(data.example_member)}", xlim=tuple(data.x.values[[0, -1]]))
    ax.set_title(f"death at iteration {int(data.example_death)}")
    st.plots.end_labels(ax, heights, shades)


if __name__ == "__main__":
    quick = Settings(draws=1024, seeds=32, others=8, iterations=80, relu_depths=(3, 5), depths=(3, 10))
    study.main(Settings(), quick, measure, draw, claims)
