"""What a verb cannot do on a network, and the name of the place where."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from stability.reading.network import Network
from stability.reading.passes import Pass
from stability.reading.running import run, title
from stability.reading.traces import generators, same_states, undisturbed


def normalises_by_batch(net: nn.Module) -> bool:
    """Whether batch normalisation makes every point depend on all of the batch."""
    norms = (part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return any(part.training or part.running_mean is None for part in norms)


def refuse_train_mode(net: nn.Module) -> None:
    """Raise for modules that are random, or make one point depend on the others, in the mode in which they are."""
    for name, part in net.named_modules():
        where = f"{type(part).__name__} {name!r}" if name else type(part).__name__
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            if part.running_mean is None:
                raise ValueError(
                    f"{where} keeps no running statistics and normalises by the batch in eval mode too, so a point has "
                    "no Jacobian of its own: give batch_dim=None, where all of x is one point, or another norm"
                )
            if part.training:
                raise ValueError(
                    f"{where} is in train mode: it normalises by the batch, so a point has no Jacobian of its own; "
                    "call model.eval() first"
                )
        rate = getattr(part, "p", 0) if isinstance(part, nn.modules.dropout._DropoutNd) else 0
        if isinstance(part, nn.MultiheadAttention | nn.RNNBase):
            rate = part.dropout
        if part.training and rate:
            raise ValueError(f"{where} drops out at random in train mode: call model.eval() first")


def refuse_chance(reading: Network, found: Pass, why: str) -> None:
    """Raise where a network drew random numbers as it ran."""
    if found.random:
        raise ValueError(
            f"{title(found.module)} draws random numbers when it runs, {random_place(reading)}: {why}; "
            "call eval() first, or take out what draws them"
        )


def random_place(reading: Network) -> str:
    """Return words for the innermost module that draws random numbers first."""
    first: list[str] = []
    running: list[list[object]] = []

    def before(*_: object) -> None:
        running.append(generators(reading.module))

    def after(name: str, kind: str) -> Callable[..., None]:
        def compare(*_: object) -> None:
            if not same_states(running.pop(), generators(reading.module)) and not first:
                first.append(f"in {kind} {name!r}" if name else "outside its modules")

        return compare

    handles = []
    for name, module in reading.module.named_modules():
        if not name or not isinstance(module, nn.Module):
            continue
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after(name, type(module).__name__)))
    try:
        with undisturbed(reading.module):
            run(reading.module, reading.copied())
    finally:
        for handle in handles:
            handle.remove()
    return first[0] if first else "in a function outside its modules"
