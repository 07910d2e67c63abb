"""A chain as one file: safetensors, with the description inside and nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stability.foundation.checks import check_integer, check_members, check_number
from stability.foundation.files import read_tensors, write_tensors
from stability.networks.architecture import Architecture

#: Raised when the layout changes, so that an old file is refused and not misread.
VERSION = 2
_KEY = "stability.Chain"


@dataclass(frozen=True)
class Stored:
    """What a file holds of a chain: the depth is that of the values unless all steps share them."""

    architecture: Architecture
    members: Sequence[int]
    init: str
    root: int
    values: Mapping[str, Tensor]
    depth: int | None = None
    factor: float = 1.0


def write(path: str | Path, stored: Stored) -> Path:
    """Write a chain to `path`, whole or not at all, and return the path."""
    description = {
        "version": VERSION,
        "architecture": stored.architecture.as_data(),
        "members": list(stored.members),
        "init": stored.init,
        "root": stored.root,
    }
    if stored.architecture.shared:
        description["depth"] = stored.depth
    if stored.factor != 1:
        description["factor"] = stored.factor
    return write_tensors(path, stored.values, {_KEY: json.dumps(description)})


def read(path: str | Path, device: torch.device | str | None = None) -> Stored:
    """Return what `write` wrote, or raise ValueError with what is wrong with the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path that Chain.save returned")
    try:
        values, metadata = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{path} holds no saved chain ({error}): save the chain again") from None
    values = {kind: value.to(device or "cpu") for kind, value in values.items()}
    if _KEY not in metadata:
        raise ValueError(f"{path} holds tensors but no saved chain: give a file that Chain.save wrote")
    try:
        description = json.loads(metadata[_KEY])
        version = description.pop("version")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has a damaged description ({error}): save the chain again") from None
    if version != VERSION:
        raise ValueError(f"{path} has layout version {version!r}, this program reads {VERSION}: save it again")
    try:
        architecture = Architecture(**description.pop("architecture"))
        description["members"] = check_members(description["members"])
        root = description["root"]
        if not isinstance(description["init"], str) or type(root) is not int or not 0 <= root < 2**64:
            raise TypeError(
                f"init is {description['init']!r} and root {description['root']!r}: expected text and an int"
            )
        check_number("factor", description.get("factor", 1.0))
        if ("depth" in description) != architecture.shared:
            raise ValueError("a depth goes with parameters that all steps share")
        if architecture.shared:
            check_integer("depth", description["depth"], 1)
        stored = Stored(architecture, **description, values=values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has a damaged description ({error}): save the chain again") from None
    _check_shapes(path, stored)
    return stored


def _check_shapes(path: Path, stored: Stored) -> None:
    """Raise unless the tensors are those of one chain."""
    values, architecture = stored.values, stored.architecture
    got = {kind: (tuple(value.shape), value.dtype) for kind, value in sorted(values.items())}
    weight = values.get("weight", torch.empty(0))
    depth, width = (*weight.shape[1:], 1, 1)[:2]
    shapes = architecture.shapes(len(stored.members), depth, width)
    expected = {kind: (shape, weight.dtype) for kind, shape in sorted(shapes.items())}
    if got != expected or 0 in weight.shape or not weight.dtype.is_floating_point:
        raise ValueError(
            f"{path} holds {got}, and {architecture.name!r} with {len(stored.members)} members needs {expected}: save "
            "the chain again"
        )
