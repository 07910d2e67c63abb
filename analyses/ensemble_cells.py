"""What ensemble.py measures of each network: paths, layers left out, errors without them, and folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

import ensemble_networks as networks
import stability as st
import study
import your_model

STATES = ("start", "trained")
INTERVAL = (-3.0, 3.0)
IDENTITY = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
#: Folds nearer than this are one.
SAME = 1e-7


@dataclass(frozen=True)
class Settings(study.Settings):
    """Paths, layers left out, and folds."""

    depth: int = 12  # Layers of every network but SpliceAI.
    seeds: int = 64  # Chains of each kind.
    networks: int = 3  # ResNets and transformers.
    iterations: int = 2000  # Of Adam for a chain.
    steps: int = 400  # Of Adam for the others.
    points: int = 4  # Points of these at which paths are taken.
    draws: int = 24  # Random sets of layers, for each number left out.
    sequence: int = 1500  # Bases that SpliceAI reads.
    shipped: int = 5  # Of its networks.


def counts(settings: Settings) -> list[int]:
    """Return how many layers are left out together."""
    return [one for one in (1, 2, 3, 4, 6, 8, 10, 12) if one <= settings.depth]


def sets_of(settings: Settings) -> list[list[int]]:
    """Return every layer alone, and random sets of more."""
    random = np.random.default_rng(settings.seed)
    alone, depth = [[layer] for layer in range(settings.depth)], settings.depth
    more = [random.choice(depth, many, replace=False) for many in counts(settings)[1:] for _ in range(settings.draws)]
    return alone + [sorted(map(int, one)) for one in more]


def by_count(values: np.ndarray, settings: Settings) -> np.ndarray:
    """Return medians over the sets of one size of what is known by set and seed."""
    sizes = np.array([len(one) for one in sets_of(settings)])
    return np.stack([np.median(values[sizes == many], axis=0) for many in counts(settings)])


def paths_of(net: Any, x: Tensor, layers: str | None = None) -> dict[str, np.ndarray]:
    """Return the energy by path length, (length, seed), and mean lengths, means over the points."""
    p = st.paths(net, x, layers, progress=False)
    random = p.random_signs()
    lengths = torch.arange(len(random), dtype=torch.float64)[:, None, None]
    kept = {"share": p.shares, "random": random, "mean": p.mean_length, "random_mean": (lengths * random).sum(0)}
    return {name: values.mean(dim=-1).numpy() for name, values in kept.items()}


def changes_of(net: Any, x: Tensor, settings: Settings, layers: str | None = None) -> dict[str, np.ndarray]:
    """Return the relative change of the output's energy by set and seed, and what random signs would give."""
    sets = sets_of(settings)
    found, g = st.leave_out(net, x, layers, sets=sets), st.propagation(net, x, layers)
    before = g.log_norms[:-1]
    moved = before + torch.where(before == -math.inf, 0.0, g.log_updates)
    # Over all points together; what moves a state that is zero at every point has all of the energy.
    strength = ((2 * moved).logsumexp(2) - (2 * before).logsumexp(2)).nan_to_num(neginf=-math.inf).numpy()
    stays = -np.logaddexp(0, strength)[: settings.depth]
    expected = np.stack([-np.expm1(stays[one].sum(axis=0)) for one in sets])
    return {"change": np.exp(2 * found.log_relative.numpy()), "expected_change": expected}


def collected(parts: dict[str, dict[str, np.ndarray]], error: np.ndarray, settings: Settings) -> xarray.Dataset:
    """Return what is known of a network at the start and after training, as a dataset."""
    dims = {"share": ("length", "seed"), "random": ("length", "seed"), "mean": ("seed",), "random_mean": ("seed",)}
    data = {name: (("state", *over), np.stack([parts[state][name] for state in STATES])) for name, over in dims.items()}
    for name in ("change", "expected_change"):
        data[name] = (("state", "left_out", "seed"), np.stack([by_count(parts[s][name], settings) for s in STATES]))
    data["error"] = (("left_out", "seed"), np.concatenate([error[:1], by_count(error[1:], settings)]))
    data["single"] = (("layer", "seed"), error[1 : settings.depth + 1])
    data["left_out"] = (("left_out",), [0, *counts(settings)])
    for name in ("change", "expected_change"):  # nothing left out changes nothing
        over, values = data[name]
        data[name] = (over, np.concatenate([np.zeros_like(values[:, :1]), values], axis=1))
    return xarray.Dataset(data).assign_coords(state=list(STATES))


def of_chain(name: str, settings: Settings) -> xarray.Dataset:
    """Return the same of one of the article's chains, errors in units of the variance of sin(x), and the folds."""
    chain = st.Chain(name, settings.depth, seeds=settings.seeds, root=settings.seed)
    x, few = (torch.linspace(*INTERVAL, count, dtype=torch.float64) for count in (257, 16))
    parts = {"start": paths_of(chain, few) | changes_of(chain, x, settings)}
    st.train(chain, st.Task(torch.sin, INTERVAL), iterations=settings.iterations, progress=False)
    parts["trained"] = paths_of(chain, few) | changes_of(chain, x, settings)
    table, errors = chain.table(), []
    for chosen in [[], *sets_of(settings)]:
        f = st.evaluate(st.Chain.from_table(without_steps(table, chosen)), x)
        errors.append((f - x.sin()).square().mean(dim=1) / x.sin().var())
    data = collected(parts, torch.stack(errors).numpy(), settings)
    folds = [folds_left(one, settings.depth) for one in table]
    data["folds"] = (("seed", "where", "what"), np.array(folds))
    data["table"] = (("seed", "step", "column"), table)
    return data.assign_coords(where=["before", "own", "after"], what=["all", "kept", "new"])


def without_steps(table: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    altered = table.copy()
    altered[..., list(chosen), :] = IDENTITY
    return altered


def made_by(table: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the folds of a chain, and for each the step that made it."""
    prefixes = [st.restrict(table[: step + 1], INTERVAL).folds().astype(float) for step in range(depth)]
    folds = st.restrict(table, INTERVAL).folds().astype(float)
    there = np.array([is_near(folds, one) for one in prefixes])
    return folds, there.argmax(axis=0)


def is_near(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (abs(places[:, None] - others[None, :]) < SAME).any(axis=1)


def folds_left(table: np.ndarray, depth: int) -> list[list[int]]:
    """Return by maker, a step before the one left out, itself or one after it, how many folds there were and stay.

    The third number of the last is how many are in new places.
    """
    folds, maker = made_by(table, depth)
    found = np.zeros((3, 3), dtype=int)
    for step in range(depth):
        left = st.restrict(without_steps(table, [step]), INTERVAL).folds().astype(float)
        kept = is_near(folds, left)
        for row, there in enumerate((maker < step, maker == step, maker > step)):
            found[row, :2] += [there.sum(), (there & kept).sum()]
        found[2, 2] += (~is_near(left, folds)).sum()
    return found.tolist()


def of_module(name: str, settings: Settings) -> xarray.Dataset:
    """Return the same of networks of modules; errors are shares of wrong answers."""
    found = []
    for number in range(settings.networks):
        seed = 1000 * settings.seed + number
        model, generator = your_model.build(name, settings.depth, seed), torch.Generator().manual_seed(seed)
        x, y = networks.examples(name, 256, generator)
        parts = {}
        for state in STATES:
            if state == "trained":
                networks.train(name, model, settings.steps, generator)
            few = x[: settings.points]
            parts[state] = paths_of(model, few, "blocks") | changes_of(
                model, x[: 8 * settings.points], settings, "blocks"
            )
        wrong = networks.errors_without(model, [[], *sets_of(settings)], x, y)
        found.append(collected(parts, wrong[:, None], settings))
    return xarray.concat(found, "seed", data_vars="minimal", coords="minimal", compat="override")
