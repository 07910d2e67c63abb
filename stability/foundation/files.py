"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def make_folder(folder: str | Path) -> Path:
    """Return the folder, made with its parents if it is not there, after a look at whether it can be written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write into the folder {folder}: {error.strerror or error}; give another one"
        ) from None
    return folder


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then put it in the place of `path` in one move.

    If anything fails, a full disk among it, the old file stays as it was and the temporary one is removed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        raise (OSError(message) if error.errno is None else OSError(error.errno, message)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and texts to one safetensors file, whole or not at all, and return its path."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def fill(temporary: Path) -> None:
        try:
            save_file(held, temporary, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    return write_atomically(path, fill)


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
