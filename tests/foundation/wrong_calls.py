"""Calls of the public functions with one argument replaced by what it cannot be: each is refused at the door.

`python -m tests.foundation.wrong_calls` makes all of them and lists what is accepted, and what ends deep inside.
"""

import collections
import contextlib
import inspect
import math
import pathlib
import sys
import tempfile
import traceback
import warnings

import matplotlib as mpl
import numpy as np
import torch

import stability as st

X = torch.linspace(-3, 3, 5, dtype=torch.float64)
TASK = st.Task(torch.sin, (-3, 3), points=16)
FOLDER = pathlib.Path(tempfile.mkdtemp())


def loss(y):
    return y.square().mean(dim=-1)


def chain():
    return st.Chain("residual2_prelu", 3, seeds=2)


def results():
    with st.watch(net := torch.nn.Linear(2, 2)) as record:
        net(torch.ones(3, 2)).square().mean().backward()
    return {
        "spectrum": st.spectrum(chain(), X),
        "propagation": st.propagation(chain(), X),
        "gradient_norms": st.gradient_norms(chain(), X, loss),
        "first_failure": st.first_failure(chain(), X, progress=False),
        "forward_error": st.forward_error(chain(), X),
        "history": st.train(chain(), TASK, iterations=2, progress=False),
        "watch": record,
    }


def calls():
    """The name of every call, what is called, and arguments that it takes."""
    found = results()
    theory = st.theory
    table = chain().table()
    both = {"weight_scale": 1.0, "bias_scale": 0.3, "activation": "tanh", "slope": 0.25}
    one = {"architecture": "residual2_prelu", "init": "uniform"}
    yield from {
        "spectrum": (
            st.spectrum,
            {"net": chain(), "x": X, "check": True, "distances": True, "memory": 1.0, "progress": False, "k": 1},
        ),
        "check_spectrum": (st.check_spectrum, {"matrices": np.eye(2)[None], "log_values": np.zeros((1, 2))}),
        "lyapunov": (st.lyapunov, {"net": np.tile(np.eye(2), (40, 1, 1)), "progress": False}),
        "propagation": (st.propagation, {"net": chain(), "x": X}),
        "gradient_norms": (st.gradient_norms, {"net": chain(), "x": X, "loss": loss}),
        "first_failure": (st.first_failure, {"net": chain(), "x": X, "formats": ["float16"], "progress": False}),
        "forward_error": (st.forward_error, {"net": chain(), "x": X, "formats": ["float32"], "level": 0.9}),
        "count": (st.count, {"net": chain(), "interval": (-3, 3)}),
        "restrict": (st.restrict, {"net": table, "line": (-3, 3), "exact": False}),
        "tent": (st.tent, {"depth": 3}),
        "layers": (st.layers, {"net": torch.nn.Linear(2, 2), "x": torch.ones(1, 2)}),
        "train": (
            st.train,
            {"chain": chain(), "task": TASK, "method": "adam", "iterations": 1, "every": 60.0, "progress": False},
        ),
        "fit_growth": (st.fit_growth, {"result": found["gradient_norms"], "along": "layer"}),
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
        "Chain.load": (st.Chain.load, {"path": chain().save(FOLDER / "chain.safetensors")}),
        "Task": (st.Task, {"target": torch.sin, "interval": (-3, 3), "points": 8}),
        "Distribution": (
            st.Distribution,
            {"family": "uniform", "scale": 1.0, "width_power": 0.0, "depth_power": 0.0, "gain": False},
        ),
        "references.constant": (st.references.constant, {"task": TASK}),
        "references.best_monotone": (st.references.best_monotone, {"task": TASK}),
        "references.best_spline": (st.references.best_spline, {"task": TASK, "folds": 1}),
        "theory.chi_1": (theory.chi_1, both),
        "theory.chi_q": (theory.chi_q, both),
        "theory.fixed_variance": (theory.fixed_variance, {**both, "start": 1.0}),
        "theory.variance_map": (theory.variance_map, {"variance": 1.0, **both}),
        "theory.correlation_map": (theory.correlation_map, {"correlation": 0.1, "variance": 1.0, **both}),
        "theory.edge_of_chaos": (theory.edge_of_chaos, {"bias_scale": 0.1, "activation": "tanh"}),
        "theory.lyapunov_exponent": (theory.lyapunov_exponent, {**one, "alive": False}),
        "theory.log_variance": (theory.log_variance, {**one, "alive": False}),
        "theory.moment": (theory.moment, {**one, "order": 2}),
        "theory.critical_scale": (theory.critical_scale, {**one, "slope": 0.5}),
        "theory.value": (theory.lyapunov_exponent("residual2_prelu").value, {"scale": 1.0, "slope": 0.5}),
        "theory.fuss_catalan_moment": (theory.fuss_catalan_moment, {"order": 2, "depth": 2}),
        "theory.fuss_catalan_quantiles": (theory.fuss_catalan_quantiles, {"depth": 2, "shares": 0.5}),
        "theory.marchenko_pastur_density": (theory.marchenko_pastur_density, {"squares": 0.5, "ratio": 1.0}),
        "theory.residual_log_edges": (theory.residual_log_edges, {"strength": 1.0}),
        "theory.gaussian_exponents": (theory.gaussian_exponents, {"width": 3, "scale": 1.0}),
        **{
            f"plots.{name}": (
                getattr(st.plots, name),
                {"result": result, "ax": None, "label": "label", "colour": "red"},
            )
            for name, result in found.items()
            if name not in ("forward_error", "watch")
        },
        "plots.save": (
            st.plots.save,
            {
                "figure": st.plots.spectrum(found["spectrum"]),
                "data": found["spectrum"].to_dataset(),
                "folder": FOLDER,
                "name": "picture",
            },
        ),
    }.items()


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
    "a bool": {"check", "distances", "progress", "alive", "exact", "gain"},
    "a text": {"label", "name", "folder"},
    "an empty text": {"label"},
    "none": {"label", "ax"},
    "a module": {"net"},
    "bytes": {"interval", "seeds"},  # whole numbers, as they are
    "a set": {"seeds"},
    "a list": NUMBERS | {"folder"},
    "empty array": NUMBERS,
    "zero": NUMBERS | {"scale", "width_power", "depth_power", "root", "folds", "order", "k"},
    "a fraction": NUMBERS | {"scale", "width_power", "depth_power", "memory", "every"},
    "minus one": {"slope", "correlation", "scale", "width_power", "depth_power"},
}


def outcome(call, arguments, name, value):
    """Return "refused", "accepted" or "deep", and what was said."""
    mpl.pyplot.close("all")
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
                fine |= (title, name, label) == ("plots.spectrum", "result", "a result")
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
