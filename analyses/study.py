"""The frame of a script: command line, parts that are kept, files, claims. A script says what is measured and drawn.

A script has a docstring of three paragraphs (Question, Method, Reading) and

    @dataclass(frozen=True)
    class Settings(study.Settings):          # has the seed already
        depth: int = 40  # Blocks of every network.

    def measure(settings: Settings, parts: study.Parts) -> xarray.Dataset: ...
    def draw(data: xarray.Dataset) -> Figure: ...          # or a dictionary of figures by name, "" for the first
    def claims(data: xarray.Dataset) -> list[study.Row]: ...

    if __name__ == "__main__":
        study.main(Settings(), Settings(depth=16), measure, draw, claims)

The second settings are those of --quick. `draw` and `claims` see nothing but the data, which may be a DataTree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import tyro
import xarray
from matplotlib.figure import Figure
from tqdm.auto import tqdm

import stability as st
from intervals import wilson

Data = xarray.Dataset | xarray.DataTree
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Row = tuple[str, str, str, str | bool]
VERDICTS = ("held", "refuted", "refined")
#: The article's chains, as claims and figures write them.
CHAINS = {
    "plain_relu": "plain ReLU",
    "residual1_relu": "residual 1 ReLU",
    "residual2_relu": "residual 2 ReLU",
    "residual2_prelu": "residual 2 PReLU",
    "plain_prelu": "plain PReLU",
}
SHADES = {label: st.plots.colour(name) for name, label in CHAINS.items()}
#: Weights and slopes of -1 and 1: every step is x, -x, |x| or -|x| about its kink.
SIGNS = dataclasses.replace(
    st.INITS["pytorch"], name="signs", weight=st.Distribution("sign"), slope=st.Distribution("sign"),
    readout_weight=st.Distribution("uniform"),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a script measures: its own settings come beside the seed."""

    seed: int = 0  # The root seed.


@dataclass(frozen=True)
class Claim:
    """What somebody says, and what was measured of it: held, refuted or refined; of True and False the first two."""

    statement: str
    source: str
    measured: str
    verdict: str | bool

    def __post_init__(self) -> None:
        if np.asarray(self.verdict).dtype == bool:
            object.__setattr__(self, "verdict", VERDICTS[int(not self.verdict)])
        if self.verdict not in VERDICTS:
            raise ValueError(f"the verdict is {self.verdict!r}: expected one of {', '.join(VERDICTS)}")


@dataclass(frozen=True)
class Options:
    """What every script takes."""

    quick: Flag = False  # Smaller settings: seconds, and no numbers to quote.
    out: Path = Path("figures")  # The folder for the figure (PNG, PDF) and its data (netCDF).
    redraw: Flag = False  # Draw the stored data again, and state the claims again; nothing is measured.
    fresh: Flag = False  # Throw away what interrupted runs of this script have kept.
    workers: int = 0  # Measure in so many processes; 0 is this one.
    client: str | None = None  # Measure on a cluster: the address of a scheduler of dask.


class CannotRun(Exception):
    """What a user can mend, in one line."""


@dataclass(frozen=True)
class _Cell:
    """A function of a cell's values, with what is the same for all cells."""

    function: Callable[..., xarray.Dataset]
    arguments: tuple[object, ...]

    def __call__(self, **cell: object) -> xarray.Dataset:
        return self.function(*cell.values(), *self.arguments)


class Parts:
    """The parts of a measurement. Each is a Dataset that a function returns, and is kept until the run is complete.

    Args:
        folder: where.
        workers, client: where cells are computed, as for `st.sweep`.
    """

    def __init__(self, folder: Path, workers: int = 0, client: object = None) -> None:
        self.folder, self.workers, self.client = folder, workers, client
        self._names: set[str] = set()

    def part(self, name: str, function: Callable[..., xarray.Dataset], *arguments: object) -> xarray.Dataset:
        """Return function(*arguments), or what an interrupted run of the same settings and code kept under the name."""
        path = self._place(name) / "part.nc"
        if not path.exists():
            with tqdm(desc=name, total=1, unit="part", disable=None) as bar:
                found = function(*arguments)
                path.parent.mkdir(parents=True, exist_ok=True)
                st.plots.write_data(found, path)
                bar.update()
        # Read back in any case, so that a run that goes on has the numbers of one that was not interrupted.
        return st.plots.read_data(path)

    def cells(
        self, function: Callable[..., xarray.Dataset], *arguments: object, **axes: Sequence[Any]
    ) -> xarray.Dataset:
        """Return function(*cell, *arguments), a part each, for every cell of the axes, which are the first dimensions.

        What is shorter in some cells, such as fewer seeds, is filled with NaN.
        """
        data = self._swept(function, axes, arguments).dataset.load()
        return data.assign_coords({dim: range(n) for dim, n in data.sizes.items() if dim not in data.coords})

    def each(
        self, function: Callable[..., xarray.Dataset], names: Iterable[str], *arguments: object
    ) -> dict[str, xarray.Dataset]:
        """Return function(name, *arguments) by name, a part each, as they are."""
        swept = self._swept(function, {"name": list(names)}, arguments)
        return {name: swept.cell(name=name) for name in names}

    def _swept(
        self, function: Callable[..., xarray.Dataset], axes: Mapping[str, Sequence[Any]], arguments: tuple[object, ...]
    ) -> st.Sweep:
        one, folder = _Cell(function, arguments), self._place(f"{function.__name__} {json.dumps(axes, default=str)}")
        workers = self.workers or (0 if self.client is None else None)  # a cluster has its own
        swept = st.sweep(one, axes, folder, self.client, workers=workers, version=self.folder.name, retry_failed=True)
        if swept.failed:
            raise RuntimeError(f"{function.__name__} has failed:\n{swept.failed[0].traceback}")
        return swept

    def kept(self) -> int:
        return sum(1 for _ in self.folder.rglob("*.nc"))

    def _place(self, name: str) -> Path:
        if name in self._names:
            raise ValueError(f"two parts have the name {name!r}")
        self._names.add(name)
        words = re.sub(r"\W+", "_", name)[:40]
        return self.folder / f"{words}-{_digest(name)}"


def main(
    full: Settings,
    quick: Settings,
    measure: Callable[..., Data],
    draw: Callable[[Any], Figure | Mapping[str, Figure]],
    claims: Callable[[Any], Sequence[Claim | Row]],
    extras: Callable[[Any, Path], Iterable[Path]] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Run a script: measure, draw, state, write, and end with a status.

    Args:
        full, quick: its settings, without and with --quick.
        measure, draw, claims: see the head of this file; `measure` may leave `parts` out.
        extras: writes what else there is, of the data, into the folder, and returns the paths.
        arguments: of the command line, for tests.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    script = Path(measure.__globals__["__file__"]).resolve()
    kinds = {"run": Options, "settings": type(full)}
    flat = [(name, Annotated[kind, tyro.conf.arg(name="")]) for name, kind in kinds.items()]
    command = dataclasses.make_dataclass("Command", flat)
    # --quick is read twice: it sets what the others default to.
    usual = command(Options(), quick if "--quick" in arguments else full)
    asked: Any = tyro.cli(command, args=arguments, description=measure.__globals__["__doc__"], default=usual)
    try:
        folder = st.plots.make_folder(asked.run.out)  # before the work, not after it
        path = folder / f"{script.stem}.nc"
        if asked.run.redraw:
            if asked.run.fresh or asked.run.quick or asked.settings != full:
                raise CannotRun("--redraw draws what is stored: leave out --quick, --fresh, --seed and the settings")
            data = _stored(path, script.stem)
        else:
            data = _measured(asked, script, measure)
            # Before the figure, so that an error in it loses nothing: --redraw goes on from here.
            st.plots.write_data(data, path)
            data = st.plots.read_data(path)
        try:
            _present(data, folder, script.stem, draw, claims, extras)
        except (KeyError, ValueError, AttributeError) as error:
            if data.attrs.get("code") == _digest(script.read_text(encoding="utf-8")):
                raise
            words = f"{path} is of another version of this script, which finds {error!r} in it"
            raise CannotRun(f"{words}; run without --redraw") from error
    except (CannotRun, OSError) as error:
        print(f"{script.stem}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def _connected(address: str) -> object:
    """Return a client of a cluster, whose workers can import this file and what stands beside it."""
    import distributed

    try:
        client = distributed.Client(address, timeout=30, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CannotRun(f"no scheduler of dask answers at {address!r}: {error}") from None
    for path in sorted(Path(__file__).parent.glob("*.py")):
        client.upload_file(str(path), load=False)
    return client


def _measured(asked: Any, script: Path, measure: Callable[..., Data]) -> Data:
    """Return what is measured, with settings and versions, from parts that are kept until all are there."""
    settings = json.dumps(dataclasses.asdict(asked.settings), default=str)
    own = asked.run.out / ".parts" / script.stem
    if asked.run.fresh:
        shutil.rmtree(own, ignore_errors=True)
    client = None if asked.run.client is None else _connected(asked.run.client)
    parts = Parts(own / _digest(settings, _code(script)), asked.run.workers, client)

    # Python's tracker of semaphores would complain of a process that ends soon with its workers.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    again = f"{script.stem}: interrupted; run the same command again: "
    with warnings.catch_warnings(), st.ends_soon(lambda: f"{again}{parts.kept()} parts are kept"):
        warnings.filterwarnings("ignore", "interrupted")
        takes_parts = measure.__code__.co_argcount > 1
        data = measure(asked.settings, parts) if takes_parts else measure(asked.settings)
    data.attrs |= {"script": script.stem, "code": _digest(script.read_text(encoding="utf-8")), "settings": settings}
    data.attrs |= {"quick": int(asked.run.quick), "seed": asked.settings.seed}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "xarray")}
    data.attrs |= {f"version_{name}": text for name, text in (versions | {"stability": st.__version__}).items()}
    data.attrs["platform"] = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    shutil.rmtree(parts.folder, ignore_errors=True)
    for empty in (own, own.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
    return data


def _stored(path: Path, script: str) -> Data:
    try:
        data = st.plots.read_data(path)
    except FileNotFoundError:
        raise CannotRun(f"there is nothing to draw again: {path} is not there; run without --redraw") from None
    except ValueError as error:
        raise CannotRun(f"{error}; run without --redraw") from None
    if data.attrs.get("script") != script:
        whose = data.attrs.get("script", "another program")
        raise CannotRun(f"{path} is of {whose}, not of {script}: run without --redraw")
    return data


def _present(data: Data, folder: Path, script: str, draw: Any, claims: Any, extras: Any) -> None:
    """Draw, state and write what the data say, with the functions of `main`."""
    stated = [row if isinstance(row, Claim) else Claim(*row) for row in claims(data)]
    data.attrs["claims"] = json.dumps([dataclasses.asdict(claim) for claim in stated])
    with mpl.rc_context(st.plots.STYLE):
        drawn = draw(data)
    figures = {"": drawn} if isinstance(drawn, Figure) else dict(drawn)
    data.attrs["findings"] = json.dumps({name: " ".join(each.get_suptitle().split()) for name, each in figures.items()})
    paths = []
    for name, figure in figures.items():
        paths += st.plots.save(figure, None if name else data, folder, f"{script}_{name}" if name else script)
    paths += extras(data, folder) if extras is not None else []
    print(table(stated))
    print("\nWritten: " + ", ".join(str(path) for path in paths))


def percent(count: float, of: float) -> str:
    """Say a share with its interval and its numbers."""
    return "{:.3g} % ({:.3g} to {:.3g}, {} of {})".format(*wilson(count, of), int(count), int(of))


def count(chosen: Any) -> str:
    """Say the share of what is True with its interval and its numbers."""
    return percent(np.sum(chosen), np.size(chosen))


def table(stated: Sequence[Claim]) -> str:
    widths = {"statement": 42, "source": 14, "measured": 46, "verdict": 8}
    lines = ["  ".join(f"{name:<{width}}" for name, width in widths.items())]
    lines.append("  ".join("-" * width for width in widths.values()))
    for row in map(dataclasses.asdict, stated):
        cells = [textwrap.wrap(row[name], width) for name, width in widths.items()]
        for texts in itertools.zip_longest(*cells, fillvalue=""):
            lines.append("  ".join(f"{text:<{width}}" for text, width in zip(texts, widths.values(), strict=True)))
        lines.append("")
    return "\n".join(line.rstrip() for line in lines).rstrip()


def levels(values: Any, axis: int | None = None) -> np.ndarray:
    """Return the median of values between the ends of what 90 % of them are, each of which is one of the values."""
    return np.quantile(values, [0.05, 0.5, 0.95], axis, method="inverted_cdf")


def spread(values: Any, digits: int = 3) -> str:
    """Return the median of values, and between what 90 % of them are, for a claim."""
    low, middle, high = (f"{x:.{digits}g}" for x in levels(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def share(hits: Any) -> str:
    """Return the share of what is True, with Wilson's interval of 95 %, for a claim."""
    return "{:.3g} % ({:.3g} to {:.3g} %)".format(*wilson(np.sum(hits), np.size(hits)))


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _code(script: Path) -> str:
    """Return a digest of all code that a part may depend on: one measured in vain costs less than a wrong one."""
    loaded = (Path(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None))
    beside = {path for path in loaded if path.suffix == ".py" and path.parent == script.parent}
    library = Path(sys.modules["stability"].__file__).parent.rglob("*.py")
    return _digest(*(path.read_text(encoding="utf-8") for path in sorted({script, *beside, *library})))
