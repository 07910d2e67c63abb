"""Files that are either whole or not there."""

from __future__ import annotations

import glob
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stability.foundation.arguments import door

_CHECKSUM = "stability.checksum"


@door
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

    If anything fails, a full disk among it, the old file stays as it was and the temporary one is removed. A link is
    followed, and a file that is replaced hands on its permissions. What killed runs left beside it is cleared.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {target.parent} does not exist; make it first")
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    temporary = None
    try:
        _clear(target)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f"{_prefix(target)}{os.getpid()}-", suffix=target.suffix
        )
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        raise (OSError(message) if error.errno is None else OSError(error.errno, message)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _prefix(target: Path) -> str:
    """How temporary files of a target begin, before the number of the process, which another machine may have too."""
    return f".{target.stem}-{platform.node()}-"


def _clear(target: Path) -> None:
    """Remove temporary files of the same target whose process is no more."""
    for left in target.parent.glob(f"{glob.escape(_prefix(target))}*{glob.escape(target.suffix)}"):
        number = left.name.removeprefix(_prefix(target)).partition("-")[0]
        if number.isdigit() and not process_runs(int(number)):
            left.unlink(missing_ok=True)


def process_runs(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # of another user
    return True


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write tensors and texts to one safetensors file with a checksum, whole or not at all, and return its path."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(held, {**metadata, _CHECKSUM: _checksum(held, metadata)})
    return write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and texts that `write_tensors` wrote.

    Raises:
        ValueError: for a file that is cut short, changed, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file: {error}") from None
    found = metadata.pop(_CHECKSUM, None)
    if found is None:
        raise ValueError("it has no checksum of this program")
    if found != _checksum(tensors, metadata):
        raise ValueError("its checksum is not that of its content: it was changed after it was written")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return a digest of names, formats, shapes and numbers, and of the texts."""
    found = blake2b(digest_size=16)
    for name, text in sorted(metadata.items()):
        found.update(repr((name, text)).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
