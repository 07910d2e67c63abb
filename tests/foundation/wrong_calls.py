"""Calls of the public functions with one argument replaced by what it cannot be: each is refused at the door.

`python -m tests.foundation.wrong_calls` makes all of them and lists what is accepted, and what ends deep inside.
"""

import collections
import contextlib
import datetime
import decimal
import inspect
import math
import pathlib
import sys
import tempfile
import traceback
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray

import stability as st

X = torch.linspace(-3, 3, 5, dtype=torch.float64)
Y = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
TASK = st.Task(torch.sin, (-3, 3), points=16)
HELD = tempfile.TemporaryDirectory()  # cleared when Python ends
FOLDER = pathlib.Path(HELD.name)


def CELL(depth):
    return xarray.Dataset({"y": float(depth)})


SWEPT = st.sweep(CELL, {"depth": [1, 2]}, FOLDER / "swept", workers=0, progress=False)


def loss(y):
    return y.square().mean(dim=-1)


def chain():
    return st.Chain("residual2_prelu", 3, seeds=2)


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)).double()


def deeper(depth):
    return torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(depth))).double()


def euler(power=-1.0):
    return st.Architecture("euler", skip=1, maps=2, activation="tanh", branch_power=power)


def a_slice():
    return st.restrict(module(), st.plane([0.0, 1.0], [1.0, 0.5], [1.0, 2.0]))


def a_scalar_slice():
    return st.restrict(lambda h: h.relu().sum(), st.plane([0.0, 1.0], [1.0, 0.5], [1.0, 2.0]))


def results():
    with st.watch(net := torch.nn.Linear(2, 2)) as record:
        net(torch.ones(3, 2)).square().mean().backward()
    return {
        "spectrum": st.spectrum(chain(), X),
        "distribution": st.spectrum(chain(), X),
        "vanishing": st.spectrum(chain(), X),
        "propagation": st.propagation(chain(), X),
        "paths": st.paths(chain(), X),
        "gradient_norms": st.gradient_norms(chain(), X, loss),
        "first_failure": st.first_failure(chain(), X, progress=False),
        "forward_error": st.forward_error(chain(), X),
        "history": st.train(chain(), TASK, iterations=2, progress=False),
        "units": st.units(module(), Y),
        "watch": record,
        "depth_check": st.depth_check(deeper, [1, 2], Y, lambda y: y.square().mean(), steps=1, seeds=1),
        "flow": st.flow(euler(), X, (2, 4), 3),
        "counts": {1: [1, 2], 2: [2, 3]},
        "function": st.restrict(chain(), (-3, 3)),
        "slice": a_slice(),
    }


#: Arguments of plots beside those that all of them take.
PLOTS = {
    "depth_check": {"colour": "viridis", "quantity": "change"},
    "distribution": {"depth": 2, "alpha": 1.0},
    "first_failure": {"top": 0.0, "size": 4.5},
    "forward_error": {"dtype": "float32", "alpha": 1.0},
    "function": {"alpha": 1.0, "marks": True, "births": False},
    "gradient_norms": {"quantity": "input"},
    "propagation": {"quantity": "norm"},
    "slice": {"colour": "viridis", "by": "slope", "level": None, "draw_folds": True, "births": False},
    "watch": {"quantity": "gradients", "colour": "viridis"},
}


def measurements():
    read = {"layers": None, "source": None, "batch_dim": 0}
    of_module = {"net": module(), "x": Y, **read}
    square = lambda y: y.square().mean()  # noqa: E731
    optimizer = torch.optim.SGD(module().parameters(), lr=0.1)
    yield from {
        "spectrum": (
            st.spectrum,
            {"net": chain(), "x": X, "check": True, "distances": True, "memory": 1.0, "progress": False, "k": 1},
        ),
        "spectrum of a module": (st.spectrum, of_module),
        "paths": (st.paths, {"net": chain(), "x": X, "k": 2, "memory": 1.0, "progress": False}),
        "paths of a module": (st.paths, {**of_module, "k": 1}),
        "leave_out": (
            st.leave_out,
            {"net": chain(), "x": X, "sets": None, "together": 1, "draws": 2, "root": 0},
        ),
        "leave_out of a module": (st.leave_out, {**of_module, "sets": [[1]]}),
        "swap_neighbours": (st.swap_neighbours, {"net": chain(), "x": X}),
        "swap_neighbours of a module": (st.swap_neighbours, of_module),
        "hessian": (
            st.hessian,
            {"net": chain(), "x": X, "loss": loss, "k": 2, "all_up_to": 100, "memory": 1.0},
        ),
        "hessian of a module": (st.hessian, {"net": module(), "x": Y, "loss": square}),
        "check_spectrum": (st.check_spectrum, {"matrices": np.eye(2)[None], "log_values": np.zeros((1, 2))}),
        "naive_spectrum": (st.naive_spectrum, of_module),
        "lyapunov": (st.lyapunov, {"net": np.tile(np.eye(2), (40, 1, 1)), "progress": False}),
        "lyapunov of a module": (st.lyapunov, of_module),
        "propagation": (st.propagation, {"net": chain(), "x": X, "pairs": None}),
        "propagation of a module": (st.propagation, {**of_module, "pairs": "all"}),
        "gradient_norms": (st.gradient_norms, {"net": chain(), "x": X, "loss": loss, "memory": 1.0}),
        "gradient_norms of a module": (st.gradient_norms, {**of_module, "loss": square}),
        "first_failure": (
            st.first_failure,
            {"net": chain(), "x": X, "formats": ["float16"], "loss": None, "progress": False},
        ),
        "first_failure of a module": (st.first_failure, {**of_module, "loss": square}),
        "forward_error": (st.forward_error, {"net": chain(), "x": X, "formats": ["float32"], "level": 0.9}),
        "forward_error of two": (st.forward_error, {**of_module, "reference": module()}),
        "flow": (
            st.flow,
            {
                "net": euler(),
                "x": X,
                "depths": (2, 4),
                "seeds": 2,
                "width": 1,
                "init": "pytorch",
                "root": 0,
                "weights": None,
                "level": 0.9,
            },
        ),
        "flow of noise": (st.flow, {"net": euler(-0.5), "x": X, "depths": (2, 4), "seeds": 40, "grid": None}),
        "units": (st.units, {**of_module, "unit_dim": None, "threshold": 0.1}),
        "layers": (st.layers, of_module),
        "examine": (
            st.examine,
            {
                "net": module(),
                "x": Y,
                "loss": None,
                "optimizer": None,
                "layers": None,
                "formats": ["float16"],
                "train": False,
                "budget": 1.0,
                "memory": 1.0,
            },
        ),
        "watch": (
            st.watch,
            {"model": module(), "every": 1, "parameters": False, "source": None, "optimizer": None, "scaler": None},
        ),
        "watch of steps": (st.watch, {"model": module(), "optimizer": optimizer}),
        "watch_deaths": (st.watch_deaths, {"chain": chain(), "x": X}),
        "count": (st.count, {"net": chain(), "interval": (-3, 3), "births": False}),
        "restrict": (st.restrict, {"net": chain().table(), "line": (-3, 3), "exact": False, "window": None}),
        "restrict of a module": (st.restrict, {"net": module(), "line": st.segment([0.0, 1.0], [1.0, 0.5])}),
        "sweep": (
            st.sweep,
            {
                "function": CELL,
                "grid": {"depth": [1, 2]},
                "store": FOLDER / "store",
                "client": None,
                "workers": 0,
                "version": "",
                "retry_failed": False,
                "replace_damaged": False,
                "progress": False,
            },
        ),
        "depth_check": (
            st.depth_check,
            {
                "make": deeper,
                "depths": [1, 2],
                "x": Y,
                "loss": square,
                "optimizer": None,
                "steps": 1,
                "seeds": 1,
                "store": None,
                "client": None,
                "workers": 0,
            },
        ),
        "ends_soon": (st.ends_soon, {"message": str, "patience": 1.0}),
        "open_sweep": (st.open_sweep, {"store": SWEPT.store, "grid": {"depth": [1, 2]}}),
        "plane": (st.plane, {"p": [0.0, 1.0], "q": [1.0, 2.0], "r": [2.0, 1.0], "rectangle": False}),
        "PiecewiseLinearSlice.call": (a_slice(), {"points": [[0.25, 0.5]]}),
        "PiecewiseLinearSlice.count": (a_slice().count, {"births": False}),
        "PiecewiseLinearSlice.folds": (a_slice().folds, {"births": False}),
        "PiecewiseLinearSlice.level_sets": (a_scalar_slice().level_sets, {"level": 0.5}),
        "segment": (st.segment, {"start": [0.0, 1.0], "end": [1.0, 2.0]}),
        "tent": (st.tent, {"depth": 3}),
        "construct": (st.construct, {"function": [0.0, 1.0, 2.0], "values": [0.0, 1.0, 0.0]}),
        "train": (
            st.train,
            {
                "chain": chain(),
                "task": TASK,
                "method": "adam",
                "iterations": 1,
                "every": 60.0,
                "progress": False,
                "checkpoint": None,
                "resume": None,
                "on_iteration": None,
            },
        ),
    }.items()


def objects():
    found = results()
    function = found["function"]
    yield from {
        "fit_growth": (
            st.fit_growth,
            {"result": found["gradient_norms"], "along": "layer", "quantity": None, "level": 0.9},
        ),
        "Architecture": (
            st.Architecture,
            {
                "name": "mine",
                "skip": 1,
                "maps": 2,
                "activation": "relu",
                "readout": False,
                "order": "original",
                "norm": None,
                "branch": 1.0,
                "branch_power": 0.5,
                "shared": False,
            },
        ),
        "Chain": (
            st.Chain,
            {
                "architecture": "plain_prelu",
                "depth": 2,
                "seeds": 2,
                "width": 1,
                "init": "he",
                "root": 0,
                "dtype": torch.float64,
            },
        ),
        "Chain.forward": (chain(), {"x": X}),
        "Chain.set_table": (chain().set_table, {"table": chain().table()}),
        "Chain.from_table": (st.Chain.from_table, {"table": chain().table(), "architecture": None, "device": None}),
        "Chain.prefix": (chain().prefix, {"depth": 2}),
        "Chain.insert": (chain().insert, {"position": 1}),
        "Chain.save": (chain().save, {"path": FOLDER / "other.safetensors"}),
        "Chain.load": (st.Chain.load, {"path": chain().save(FOLDER / "chain.safetensors"), "device": None}),
        "PiecewiseLinear.folds": (function[0].folds, {"births": False}),
        "PiecewiseLinear.count": (function[0].count, {"births": False}),
        "PiecewiseLinear.call": (function[0].__call__, {"t": 0.5}),
        "PiecewiseLinear.maximum": (function[0].maximum, {"other": 0.5}),
        "PiecewiseLinear.restrict": (function[0].restrict, {"low": -1, "high": 1}),
        "PiecewiseLinear.inner": (function[0].inner, {"other": function[0]}),
        "PiecewiseLinear.norm": (function[0].norm, {"p": 2}),
        "PiecewiseLinear.distance": (function[0].distance, {"target": torch.sin}),
        "Paths.quantiles": (found["paths"].quantiles, {"q": (0.5,)}),
        "Spectrum.underflows": (found["spectrum"].underflows, {"dtype": torch.float16}),
        "GradientNorms.underflows": (
            found["gradient_norms"].underflows,
            {"dtype": torch.float16, "quantity": "parameters"},
        ),
        "GradientNorms.quantiles": (
            found["gradient_norms"].quantiles,
            {"quantity": "parameters", "q": (0.5,), "alive": False},
        ),
        "GradientNorms.of_seeds": (st.GradientNorms.of_seeds, {"results": [found["gradient_norms"]]}),
        "Propagation.of_seeds": (st.Propagation.of_seeds, {"results": [found["propagation"]]}),
        "Units.share": (found["units"].share, {"kind": "dead"}),
        "FirstFailures.loss_scale": (found["first_failure"].loss_scale, {"dtype": "float16"}),
        "ForwardErrors.digits": (found["forward_error"].digits, {"dtype": "float16"}),
        "GrowthFit.predict": (st.fit_growth(found["gradient_norms"]).predict, {"positions": [1.0, 2.0]}),
        "Task": (st.Task, {"target": torch.sin, "interval": (-3, 3), "points": 8}),
        "Task.from_samples": (st.Task.from_samples, {"x": [0.0, 1.0], "y": [0.0, 1.0]}),
        "Distribution": (
            st.Distribution,
            {"family": "uniform", "scale": 1.0, "width_power": 0.0, "depth_power": 0.0, "gain": False},
        ),
        **{
            f"plots.{name}": (
                getattr(st.plots, name),
                {"result": result, "ax": None, "label": "label", "colour": "red", **PLOTS.get(name, {})},
            )
            for name, result in found.items()
        },
        "plots.fits": (
            st.plots.fits,
            {"result": chain(), "ax": None, "label": "label", "colour": "red", "task": TASK},
        ),
        "plots.colour": (st.plots.colour, {"architecture": "plain_prelu"}),
        "plots.make_folder": (st.plots.make_folder, {"folder": FOLDER / "made"}),
        "plots.write_data": (
            st.plots.write_data,
            {"data": found["spectrum"].to_dataset(), "path": FOLDER / "data.nc"},
        ),
        "plots.read_data": (
            st.plots.read_data,
            {"path": st.plots.write_data(found["spectrum"].to_dataset(), FOLDER / "data.nc")},
        ),
        "plots.panels": (st.plots.panels, {"mosaic": "ab", "height": 2.0}),
        "plots.headline": (st.plots.headline, {"figure": st.plots.panels("a", 2.0)[0], "text": "A finding."}),
        "plots.band": (
            st.plots.band,
            {
                "ax": st.plots.panels("a", 2.0)[1]["a"],
                "x": [1.0, 2.0],
                "levels": [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]],
                "colour": "red",
                "marks": 3.0,
                "alpha": 0.2,
            },
        ),
        "plots.numbers": (
            st.plots.numbers,
            {
                "ax": st.plots.panels("a", 2.0)[1]["a"],
                "values": [[1.0, 2.0]],
                "rows": ["one"],
                "columns": ["a", "b"],
                "most": 10.0,
                "below": 5.0,
                "cmap": "Greys",
            },
        ),
        "plots.end_labels": (
            st.plots.end_labels,
            {"ax": st.plots.panels("a", 2.0)[1]["a"], "labels": {"one": 0.5}, "colours": {"one": "red"}},
        ),
        "plots.save": (
            st.plots.save,
            {
                "figure": st.plots.spectrum(found["spectrum"]),
                "data": found["spectrum"].to_dataset(),
                "folder": FOLDER,
                "name": "picture",
            },
        ),
        **{
            f"references.{name}": (getattr(st.references, name), {"task": TASK})
            for name in ("constant", "best_monotone", "best_above_identity", "nearest_chain")
        },
        "references.adam_in": (
            st.references.adam_in,
            {"kind": np.float64, "chain": st.Chain("plain_prelu", 2, seeds=2), "task": TASK, "iterations": 2},
        ),
        "references.best_spline": (st.references.best_spline, {"task": TASK, "folds": 1}),
    }.items()


def formulas():
    theory = st.theory
    point = {"weight_scale": 1.0, "bias_scale": 0.3, "activation": "tanh", "slope": 0.25}
    kernel = {"correlation": 0.1, "variance": 1.0, "activation": "tanh", "slope": 0.25, "other_variance": 1.0}
    one = {"architecture": "residual2_prelu", "init": "uniform"}
    widths = {"widths": [2, 3, 2], "activation": "relu"}
    found = {
        **{key: {**point, "variance": 1.0} for key in ("chi_1", "chi_q")},
        **dict.fromkeys(("activation_kernel", "derivative_kernel"), kernel),
        **dict.fromkeys(
            ("correlation_depth_scale", "variance_depth_scale", "gradient_depth_scale", "fixed_correlation"), point
        ),
        "fixed_variance": {**point, "start": 1.0},
        "variance_map": {"variance": 1.0, **point},
        "correlation_map": {"correlation": 0.1, "variance": 1.0, **point, "other_variance": None},
        "edge_of_chaos": {"bias_scale": 0.1, "activation": "tanh", "slope": 0.25},
        "residual_growth_factor": {"weight_scale": 1.0, "outer_scale": 1.0, "slope": 0.1},
        "residual_signals": {
            "depth": 3,
            **{"weight_scale": 1.0, "outer_scale": 1.0, "bias_scale": 0.1, "outer_bias_scale": 0.1},
            **{"activation": "tanh", "slope": 0.25, "start": 1.0, "correlation": 0.0},
        },
        "residual_tanh_laws": {"weight_scale": 1.0, "outer_scale": 1.0, "outer_bias_scale": 0.1},
        "shattered_correlation": {"depth": 3, "kind": "plain", "co_active": 0.25, "strength": 2.0},
        **{key: {**one, "sign": None, "alive": False} for key in ("lyapunov_exponent", "log_variance")},
        "moment": {**one, "order": 2, "sign": None},
        "critical_scale": {**one, "slope": 0.5, "sign": None, "alive": False},
        "gradient_rate": {**one, "along": "layer", "sign": None},
        "failure_depth": {**one, "dtype": "float32", "share": 0.5, "sign": None, "scale": 1.0, "slope": 0.25},
        "scaled_limit": {**one, "power": 0.5, "sign": None},
        "expected_counts": {"architecture": "plain_prelu", "init": "uniform", "interval": (-3, 3)},
        "step_formula": {"architecture": "plain_prelu"},
        "born_dead": {"interval": (-3, 3), "init": "pytorch"},
        "born_dead_step": {"init": "pytorch"},
        "born_dead_by_sampling": {"depth": 2, "interval": (-3, 3), "init": "pytorch", "samples": 10, "root": 0},
        **dict.fromkeys(("log_squared_norm", "log_squared_norm_limit", "survival_probability"), widths),
        "residual_drift": {"width": 2},
        "residual_rms": {"kind": "normalised"},
        "path_energy": {},
        "least_turning_steps": {},
        "monotone_share": {},
        "squared_norm_moment": {"order": 2, **widths},
        **{
            key: {"depth": 3, "activation": "linear", "weights": "gaussian"}
            for key in ("largest_squared_singular_value", "squared_singular_value_variance")
        },
        "fuss_catalan_density": {"depth": 2, "points": 11},
        "fuss_catalan_moment": {"order": 2, "depth": 2},
        "fuss_catalan_quantiles": {"depth": 2, "shares": 0.5},
        "marchenko_pastur_density": {"squares": 0.5, "ratio": 1.0},
        "residual_log_edges": {"strength": 1.0},
        "gaussian_exponents": {"width": 3, "scale": 1.0},
    }
    for name, arguments in found.items():
        yield f"theory.{name}", (getattr(theory, name), arguments)
    value = theory.lyapunov_exponent("residual2_prelu").value
    yield "theory.value", (value, {"scale": 1.0, "slope": 0.5})


def calls():
    """The name of every call, what is called, and arguments that it takes."""
    yield from measurements()
    yield from objects()
    yield from formulas()


NUMBERS = {
    "weight_scale",
    "bias_scale",
    "slope",
    "variance",
    "correlation",
    "start",
    "shares",
    "squares",
    "ratio",
    "strength",
    "outer_scale",
    "outer_bias_scale",
    "other_variance",
    "t",
    "low",
    "high",
    "co_active",
}

#: What hardly any argument may be. None and True are left out where they are a default or a number.
WRONG = {
    "nan": math.nan,
    "inf": math.inf,
    "minus one": -1,
    "a fraction": 2.5,
    "zero": 0,
    "a complex number": 1j,
    "a bool": True,
    "none": None,
    "a text": "rubbish",
    "bytes": b"ab",
    "an empty text": "",
    "a list": [],
    "a list of texts": ["a", "b"],
    "a nested list": [[1, 2], [3]],
    "a dictionary": {"a": 1},
    "a set": {1, 2},
    "an object": object(),
    "an ellipsis": ...,
    "a generator": (n for n in ()),
    "a huge number": 10**400,
    "a decimal": decimal.Decimal("0.5"),
    "a date": datetime.date(2000, 1, 1),
    "a tuple of None": (None, None),
    "numpy text": np.str_("rubbish"),
    "numpy date": np.datetime64("2000-01-01"),
    "an exception": ValueError("wrong"),
    "a slice": slice(0, 2),
    "a function": len,
    "a type": int,
    "complex array": np.ones(3, complex),
    "bool array": np.ones(3, bool),
    "object array": np.array([None, "x"], dtype=object),
    "empty array": np.empty(0),
    "tensor of nan": torch.full((3,), math.nan, dtype=torch.float64),
    "complex tensor": torch.ones(3, dtype=torch.complex128),
    "tensor of flags": torch.ones(2, dtype=torch.bool),
    "meta tensor": torch.empty(2, device="meta"),
    "a module": torch.nn.Linear(2, 2),
    "a result": st.spectrum(np.eye(2)[None]),
}

#: Names of arguments that may be such a value after all.
FINE = {
    "a bool": {
        "parameters",
        "marks",
        "check",
        "distances",
        "progress",
        "alive",
        "exact",
        "gain",
        "train",
        "replace_damaged",
        "retry_failed",
        "readout",
        "shared",
        "rectangle",
        "draw_folds",
    },
    "a text": {"label", "text", "mosaic", "name", "folder", "checkpoint", "resume", "path", "store"},
    "an empty text": {"label", "folder"},
    "none": {"label", "ax", "batch_dim", "colours"},
    "numpy text": {"checkpoint", "store", "resume", "path", "folder", "name", "label", "text", "mosaic"},
    "a module": {"net", "model", "reference", "loss", "target", "on_iteration", "weights"},
    "bytes": {"interval", "seeds"},  # whole numbers, as they are
    "a set": {"seeds"},
    "a list": NUMBERS | {"folder"},
    "empty array": NUMBERS,
    "zero": {"source", "batch_dim", "unit_dim", "threshold", "position", "top", "alpha", "depth", "other"}
    | NUMBERS
    | {"scale", "width_power", "depth_power", "root", "folds", "order", "k", "skip", "branch", "branch_power"},
    "a fraction": NUMBERS
    | {"top", "size", "other", "scale", "width_power", "depth_power", "memory", "every", "budget"}
    | {"skip", "branch", "branch_power"},
    "minus one": {
        "branch",
        "branch_power",
        "skip",
        "correlation",
        "depth_power",
        "high",
        "low",
        "other",
        "scale",
        "sign",
        "slope",
        "t",
        "top",
        "unit_dim",
        "width_power",
    },
}


#: Calls, arguments and values that go together after all.
ALLOWED = {
    ("plots.spectrum", "result", "a result"),
    ("plots.vanishing", "result", "a result"),
    ("plots.colour", "architecture", "a text"),  # of another network
    ("plots.colour", "architecture", "an empty text"),
    ("plots.end_labels", "labels", "a dictionary"),
    ("plots.save", "data", "none"),  # a figure alone
    ("plots.panels", "height", "a fraction"),
    ("plots.band", "marks", "a fraction"),
    ("plots.numbers", "columns", "a list of texts"),  # two of them
    *(("PiecewiseLinearSlice.level_sets", "level", what) for what in ("zero", "a fraction", "minus one")),
    ("plots.colour", "architecture", "numpy text"),
    ("Chain.forward", "x", "tensor of nan"),  # as any module
    ("PiecewiseLinear.maximum", "other", "tensor of flags"),  # a mask
    ("PiecewiseLinear.norm", "p", "inf"),
    *((call, "births", "a bool") for call in ("count", "PiecewiseLinear.count", "PiecewiseLinear.folds")),
    *((f"PiecewiseLinearSlice.{call}", "births", "a bool") for call in ("count", "folds")),
    ("sweep", "function", "a type"),  # whatever can be called
    ("sweep", "workers", "zero"),  # in this process
    *(("sweep", "version", label) for label in ("a text", "an empty text", "numpy text")),
    *(("ends_soon", "message", label) for label in ("a function", "a type", "a module")),
    ("ends_soon", "patience", "a fraction"),
    ("depth_check", "workers", "zero"),  # in this process
    ("plots.band", "marks", "zero"),
    ("plots.numbers", "most", "a fraction"),
    *(("plots.numbers", "below", label) for label in ("minus one", "a fraction", "zero")),
    ("references.adam_in", "iterations", "zero"),
    ("theory.squared_norm_moment", "order", "a fraction"),
    ("theory.marchenko_pastur_density", "squares", "inf"),
    ("theory.scaled_limit", "power", "a fraction"),
    ("theory.shattered_correlation", "depth", "a list"),
    ("theory.shattered_correlation", "depth", "empty array"),
    ("theory.born_dead", "interval", "minus one"),  # a point
    ("theory.born_dead", "interval", "a fraction"),
    ("theory.born_dead", "interval", "zero"),
    ("theory.value", "scale", "a list"),
    ("theory.value", "scale", "empty array"),
    # Whether a call of this name makes states is known when the model runs.
    *(("watch", "source", label) for label in ("minus one", "a text", "an empty text", "numpy text")),
}


def outcome(call, arguments, name, value):
    """Return "refused", "accepted" or "deep", and what was said."""
    plt.close("all")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.chdir(FOLDER):  # an empty text is a path of this folder
                call(**{**arguments, name: value})
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        inside = any("/stability/" in frame.filename for frame in frames[-1:])
        clear = isinstance(error, TypeError | ValueError | OSError) and (inside or "expected" in str(error))
        return (
            "refused" if clear else "deep"
        ), f"{type(error).__name__}: {str(error)[:100]} ({frames[-1].filename[-30:]})"
    return "accepted", ""


def all_outcomes(part=1):
    for number, (title, (call, arguments)) in enumerate(calls()):
        optional = {n for n, p in inspect.signature(call).parameters.items() if p.default is None}
        for place, name in enumerate(arguments):
            for kind, (label, value) in enumerate(WRONG.items()):
                fine = name in FINE.get(label, ()) or (label == "none" and name in optional)
                fine |= (title, name, label) in ALLOWED
                if not fine and (number + place + kind) % part == 0:
                    yield (title, name, label), outcome(call, arguments, name, value)


def main():
    counts = collections.Counter()
    for where, (what, said) in all_outcomes():
        counts[what] += 1
        if what != "refused":
            print(what, *where, said.replace("\n", " "))
    print(dict(counts))


if __name__ == "__main__":
    mpl.use("Agg")
    sys.exit(main())
