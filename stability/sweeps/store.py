"""The folder of a sweep: a file a cell, whole or not there, and nothing that these files do not say.

sweep.json            the function and the version that the cells are of, and a digest of the function's code
cells/ab/ab...nc      what a cell has given, with its values
failed/ab/ab...json   the error of a cell that has failed
common.json           the variables that all cells have
shapes/ab...json      the sizes and coordinates that some of them have
temporary/            files that are being written
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import xarray

from stability.foundation.data_files import packed, unpacked
from stability.foundation.files import make_folder, process_runs
from stability.sweeps.cells import Cell, words_of

_VALUES = "stability_cell"
#: Seconds after which a temporary file of another machine counts as left behind.
_OLD = 86400.0


@dataclass(frozen=True)
class Store:
    """A folder of cells.

    Attributes:
        folder: where it is.
        function, version: what the cells are of.
        code: a digest of the function's code when the store was begun, "" where it has none.
    """

    folder: Path
    function: str
    version: str
    code: str = ""

    def cell(self, name: str) -> Path:
        return self.folder / "cells" / name[:2] / f"{name}.nc"

    def failure(self, name: str) -> Path:
        return self.folder / "failed" / name[:2] / f"{name}.json"

    def done(self) -> set[str]:
        """Return the names of the cells that are there."""
        return set(_names(self.folder / "cells", ".nc"))

    def failed(self) -> set[str]:
        """Return the names of the cells that have failed."""
        return set(_names(self.folder / "failed", ".json"))

    def packed(self, cell: Cell, data: xarray.Dataset) -> bytes:
        """Return the content of a cell's file.

        Raises:
            ValueError: for what netCDF does not hold.
        """
        held = data.assign_attrs({_VALUES: json.dumps(cell)})
        try:
            return packed(held)
        except Exception as error:  # xarray and HDF5 tell of it in many ways
            raise ValueError(f"the cell {words_of(cell)} gives what netCDF does not hold: {error}") from error

    def write(self, name: str, content: bytes) -> bool:
        """Keep what a cell has given, unless it is there already; return whether it was kept."""
        kept = self._put(self.cell(name), content)
        self.failure(name).unlink(missing_ok=True)
        return kept

    def read(self, name: str, cell: Cell) -> xarray.Dataset:
        """Return what a cell has given.

        Raises:
            ValueError: for a file that is cut short or is of another cell.
        """
        path = self.cell(name)
        try:
            data = unpacked(path.read_bytes())
            if not isinstance(data, xarray.Dataset) or json.loads(data.attrs.pop(_VALUES)) != cell:
                raise ValueError("it is of another cell")
        except FileNotFoundError:
            raise
        except Exception as error:  # HDF5 tells of a damaged file in many ways
            raise ValueError(
                f"the file {path} of the cell {words_of(cell)} is damaged: {error}; run the sweep again with "
                "replace_damaged=True"
            ) from None
        return data

    def write_failure(self, name: str, record: dict[str, object]) -> None:
        """Keep why a cell has failed."""
        path = self.failure(name)
        path.unlink(missing_ok=True)
        self._put(path, json.dumps(record, indent=1).encode())

    def read_failure(self, name: str) -> dict[str, object]:
        """Return why a cell has failed."""
        found = json.loads(self.failure(name).read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found

    def common(self, given: str) -> str:
        """Return what all cells must have, which is what the first one had, as a text."""
        path = self.folder / "common.json"
        if not path.exists():
            self._put(path, given.encode())
        return path.read_text(encoding="utf-8")

    def add_shape(self, text: str) -> None:
        """Keep that a cell has this shape."""
        path = self.folder / "shapes" / f"{blake2b(text.encode(), digest_size=16).hexdigest()}.json"
        if not path.exists():
            self._put(path, text.encode())

    def shapes(self) -> list[str]:
        """Return the shapes that cells have."""
        return [path.read_text(encoding="utf-8") for path in (self.folder / "shapes").glob("*.json")]

    def _put(self, path: Path, content: bytes) -> bool:
        """Write a file, unless it is there: to a temporary name, flushed to the disk, then given its own."""
        folder = self.folder / "temporary"
        temporary = folder / f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # fails where the file is there: whoever comes first has it
            except FileExistsError:
                return False
            except OSError:  # a disk without links
                if path.exists():
                    return False
                temporary.replace(path)
        except OSError as error:
            words = f"cannot write {path}: {error.strerror or error}"
            raise StoreError(f"{words}; what was computed before is kept") from None
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def clear_temporary(self) -> None:
        """Remove temporary files whose process is no more."""
        for left in (self.folder / "temporary").glob("*-*-*"):
            node, process, _ = left.name.rsplit("-", 2)
            try:
                mine = node == platform.node()
                gone = not process_runs(int(process)) if mine else time.time() - left.stat().st_mtime > _OLD
                if gone:
                    left.unlink(missing_ok=True)
            except (OSError, ValueError):
                continue


class StoreError(OSError):
    """The store cannot be written to: nothing that is computed now could be kept."""


def create_store(folder: str | Path, function: str, version: str, code: str = "") -> Store:
    """Return the store in a folder, which is made where it is not there.

    Raises:
        OSError: where the folder cannot be written to.
        ValueError: where it is the store of another function or version, or holds something else.
    """
    path = make_folder(folder).absolute()  # a cell, and a worker, may be in another working directory
    store = Store(path, function, version)
    if not (path / "sweep.json").exists():
        others = [one.name for one in path.iterdir() if one.name not in ("temporary", "sweep.json")]
        if others and not (path / "sweep.json").exists():  # another sweep may have begun just now
            raise ValueError(f"the folder {path} holds {others[0]!r} and is no store of a sweep: give an empty one")
        store._put(path / "sweep.json", json.dumps({"function": function, "version": version, "code": code}).encode())
    held = existing_store(path)
    if (held.function, held.version) != (function, version):
        raise ValueError(
            f"the folder {path} is the store of {held.function!r}, version {held.version!r}: expected {function!r}, "
            f"version {version!r}; give another folder"
        )
    return held


def existing_store(folder: str | Path) -> Store:
    """Return the store that a folder is.

    Raises:
        ValueError: where it is none.
    """
    path = Path(folder).absolute()
    try:
        held = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        return Store(path, str(held["function"]), str(held["version"]), str(held.get("code", "")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the folder {path} is no store of a sweep: {error}") from None


def _names(folder: Path, suffix: str) -> Iterator[str]:
    if not folder.is_dir():
        return
    for part in os.scandir(folder):
        if part.is_dir():
            for entry in os.scandir(part.path):
                if entry.name.endswith(suffix):
                    yield entry.name.removesuffix(suffix)
