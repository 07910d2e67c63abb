"""The command line: `stability examine model.py:make`, `stability layers model.py:make`, `stability sweep ...`."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar, cast

import torch
import tyro
from torch import nn

from stability.foundation.files import make_folder
from stability.reading import layers
from stability.report.examine import examine
from stability.signals.losses import Loss
from stability.sweeps.cells import Grid
from stability.sweeps.sweep import sweep

R = TypeVar("R")
_NAMES = ("model", "x", "loss", "optimizer")


class CannotRun(Exception):
    """Why nothing was examined, in one line."""


@dataclass(frozen=True)
class Examine:
    """Print what is wrong with a network, where, how badly and what helps, and write a page and a JSON file.

    The exit status is 0 where nothing is broken or harmful, 1 where something is, and 2 where it could not run.
    """

    target: tyro.conf.Positional[str]
    """FILE.py:NAME of a function or object that gives (model, x), (model, x, loss) or (model, x, loss, optimizer)."""
    out: Path = Path()
    """The folder for examine.html and examine.json."""
    budget: float = 30.0
    """Seconds after which nothing more is begun."""
    memory: float = 4.0
    """GiB that the spectrum may take."""
    train: bool = False
    """Examine it in train mode."""


@dataclass(frozen=True)
class Layers:
    """Print the layers of a network: names, kinds, states and parameters."""

    target: tyro.conf.Positional[str]
    """FILE.py:NAME, as for examine."""


@dataclass(frozen=True)
class Sweep:
    """Compute a function on the cells of a grid, each once, and keep each in a file of its own.

    The same command goes on with what is missing. The exit status is 0 where all cells are there, 1 where some have
    failed, and 2 where it could not run.
    """

    target: tyro.conf.Positional[str]
    """FILE.py:NAME of a function that takes the names of the grid and returns an xarray Dataset."""
    grid: str
    """FILE.py:NAME of a mapping of names to values or a list of cells, or a file in JSON that holds one."""
    store: Path
    """The folder for the cells."""
    client: str | None = None
    """The address of a scheduler of dask; without one, processes on this machine."""
    workers: int | None = None
    """How many processes on this machine; as many as cores by default."""
    version: str = ""
    """The version of the function that the store is of."""
    retry_failed: bool = False
    """Compute again what has failed."""
    replace_damaged: bool = False
    """Look into all files, and compute again those that are cut short."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 healthy, 1 findings, 2 where it could not run."""
    command = tyro.cli(
        Annotated[Examine, tyro.conf.subcommand("examine")]
        | Annotated[Layers, tyro.conf.subcommand("layers")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")],
        prog="stability",
        description="Numerical stability of deep networks.",
        args=arguments,
    )
    try:
        return _run(command)
    except (CannotRun, ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"stability: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(command: Examine | Layers | Sweep) -> int:
    if isinstance(command, Sweep):
        return _swept(command)
    model, x, loss, optimizer = loaded(command.target)
    if isinstance(command, Layers):
        print(layers(model, x))
        return 0
    folder = make_folder(command.out)
    try:
        report = examine(
            model, x, loss, optimizer=optimizer, train=command.train, budget=command.budget, memory=command.memory
        )
    except (LookupError, AttributeError, ArithmeticError, AssertionError) as error:  # of the model or the loss
        raise CannotRun(f"{command.target} raises {type(error).__name__}: {error}") from error
    written = report.to_html(folder / "examine.html"), report.to_json(folder / "examine.json")
    try:
        print(report, *(f"wrote {path}" for path in written), sep="\n", flush=True)
    except BrokenPipeError:  # who reads, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes it once more at its end
    return 0 if report.healthy else 1


def _swept(command: Sweep) -> int:
    function = _object(command.target)
    if not callable(function):
        raise CannotRun(f"{command.target} is a {type(function).__name__}: expected a function")
    if command.grid.endswith(".json"):
        try:
            grid = json.loads(Path(command.grid).read_text(encoding="utf-8"))
        except ValueError as error:
            raise CannotRun(f"{command.grid} is no JSON: {error}") from error
    else:
        grid = _object(command.grid)
    found = sweep(
        function,
        cast("Grid", grid),
        command.store,
        command.client,
        workers=command.workers,
        version=command.version,
        retry_failed=command.retry_failed,
        replace_damaged=command.replace_damaged,
    )
    print(found)
    return 1 if found.failed else 0


def loaded(target: str) -> tuple[nn.Module, object, Loss | None, torch.optim.Optimizer | None]:
    """Return the model, the points, the loss and the optimiser that FILE.py:NAME gives.

    Raises:
        CannotRun: where the file is not there or raises, or the name is not in it, or gives something else.
    """
    found, name, path = _object(target), target.rpartition(":")[2], Path(target.rpartition(":")[0])
    if callable(found) and not isinstance(found, nn.Module):
        found = _without_raising(f"{name}() in {path} raises", found, path)
    return _parts(found, f"{name} in {path}")


def _object(target: str) -> object:
    """Return what FILE.py:NAME names.

    Raises:
        CannotRun: where the file is not there or raises, or the name is not in it.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise CannotRun(f"{target!r} names no object: expected FILE.py:NAME, such as model.py:make")
    path = Path(place)
    if not path.is_file():
        raise CannotRun(f"there is no file {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CannotRun(f"{place} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickles look there
    sys.path.insert(0, str(path.parent.resolve()))
    load = spec.loader.exec_module
    _without_raising(f"{place} raises", lambda: load(module), path)
    if not hasattr(module, name):
        known = [one for one in vars(module) if not one.startswith("_")]
        raise CannotRun(f"{place} has no {name!r}: it has {', '.join(known[:10]) or 'no names'}")
    return getattr(module, name)


def _without_raising(words: str, action: Callable[[], R], path: Path) -> R:
    try:
        return action()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a file may call sys.exit
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == path.name]
        where = f" at line {lines[-1]}" if lines else ""
        raise CannotRun(f"{words} {type(error).__name__}{where}: {error}") from error


def _parts(found: object, what: str) -> tuple[nn.Module, object, Loss | None, torch.optim.Optimizer | None]:
    if isinstance(found, Mapping):
        given = {("model" if key == "net" else key): value for key, value in found.items()}
        unknown = set(given) - set(_NAMES)
        if unknown or not {"model", "x"} <= set(given):
            raise CannotRun(f"{what} gives the entries {sorted(map(str, found))}: expected model, x, loss, optimizer")
        parts = [given.get(name) for name in _NAMES]
    elif isinstance(found, tuple | list) and 2 <= len(found) <= 4:
        parts = [*found, None, None][:4]
    else:
        raise CannotRun(
            f"{what} gives a {type(found).__name__}: expected (model, x), with loss and optimizer or without"
        )
    model = parts[0]
    if not isinstance(model, nn.Module):
        raise CannotRun(f"the model of {what} is a {type(model).__name__}: expected an nn.Module")
    return model, parts[1], cast("Loss | None", parts[2]), cast("torch.optim.Optimizer | None", parts[3])
