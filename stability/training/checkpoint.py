"""A run of training as one file, from which it goes on: safetensors, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path

from torch import Tensor

from stability.foundation.files import read_tensors, write_tensors
from stability.networks import Chain
from stability.training.options import Options
from stability.training.task import Task

#: Raised when the layout changes, so that an old file is refused and not misread.
VERSION = 3
_KEY = "stability.train"


def digest(*tensors: Tensor) -> str:
    """Return a digest of the tensors' values."""
    found = blake2b(digest_size=16)
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def describe(chain: Chain, task: Task, method: str, options: Options) -> dict[str, object]:
    """Return what makes a run the one that it is, its parameters left out."""
    return {
        "layout version": VERSION,
        "architecture": chain.architecture.as_data(),
        "depth": chain.depth,
        **({} if chain.factor == 1 else {"factor": chain.factor}),
        "width": chain.width,
        "members": list(chain.members),
        "init": chain.init,
        "root": chain.root,
        "dtype": str(chain.dtype),
        "trained parameters": [kind for kind, value in chain.named_parameters() if value.requires_grad],
        "task": digest(task.x, task.y),
        "method": method,
        **{name.replace("_", " "): str(value) for name, value in asdict(options).items()},
    }


def write(path: str | Path, description: Mapping[str, object], start: str, tensors: Mapping[str, Tensor]) -> Path:
    """Write a run to `path`, whole or not at all; `start` is the digest of the parameters that it began with."""
    metadata = {_KEY: json.dumps({"description": description, "start": start})}
    return write_tensors(path, tensors, metadata)


def read(path: str | Path, description: Mapping[str, object]) -> tuple[str, dict[str, Tensor]]:
    """Return the digest of the parameters that a run began with, and its tensors.

    Raises:
        FileNotFoundError, ValueError: where there is no file, it is cut short or something else, or of another run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}: give the path that a run wrote, or resume=None")
    try:
        tensors, metadata = read_tensors(path)
        stored = json.loads(metadata[_KEY])
        found, start = dict(stored["description"]), str(stored["start"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole checkpoint of st.train ({error}): it was cut short or is something else; begin anew "
            "with resume=None"
        ) from None
    if set(stored) != {"description", "start"} or set(found) != set(description):
        raise ValueError(f"{path} is no checkpoint of st.train: it holds {', '.join(sorted({*stored, *found}))}")
    for name, expected in json.loads(json.dumps(description)).items():
        if found.get(name) != expected:
            raise ValueError(
                f"{path} is of another run: its {name} is {found.get(name)!r}, here it is {expected!r}; resume it with "
                "the chain, task and options that it began with"
            )
    return start, tensors
