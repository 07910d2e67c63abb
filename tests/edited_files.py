"""Files that are whole, with a right checksum, and hold something that no run of the program would write."""

import json
import math

import torch

from stability.foundation import files

#: What no entry of a description is, but where it is of that type.
VALUES = (None, "x", -1, [], {}, math.inf, True, 2.5)


def edited(path):
    """Yield what was edited, and a file's tensors and metadata then."""
    tensors, metadata = files.read_tensors(path)
    for name, value in tensors.items():
        other = value.float() if value.dtype != torch.float32 else value.double()
        longer = torch.cat([value, value[-1:]]) if value.ndim else value.repeat(2)
        yield f"{name} left out", {k: v for k, v in tensors.items() if k != name}, metadata
        yield f"{name} of another format", tensors | {name: other}, metadata
        yield f"{name} cut", tensors | {name: value[:-1] if value.ndim else value[None]}, metadata
        yield f"{name} longer", tensors | {name: longer}, metadata
    yield "one tensor more", tensors | {"more": torch.ones(2)}, metadata
    for key, text in metadata.items():
        for wrong in ("", "x", "null", "[]"):
            yield f"{key} {wrong!r}", tensors, metadata | {key: wrong}
        try:
            held = json.loads(text)
        except ValueError:
            continue
        for entry, old in held.items():
            rest = {k: v for k, v in held.items() if k != entry}
            yield f"{entry} left out", tensors, metadata | {key: json.dumps(rest)}
            for value in VALUES:
                if type(value) is not type(old):
                    yield f"{entry} {value!r}", tensors, metadata | {key: json.dumps(held | {entry: value})}
        yield "one entry more", tensors, metadata | {key: json.dumps(held | {"more": 1})}
