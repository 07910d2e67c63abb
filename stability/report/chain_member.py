"""A chain of one member as a module whose layers are its steps, as any other module has."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from stability.networks import Chain
from stability.reading.chain_reading import step_names


class _Step(nn.Module):
    """The place of a step."""

    def forward(self, h: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        return step(h)


class Member(nn.Module):
    """A chain of one member, with the parameters of the chain and a module for each of its steps."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.held = (chain,)  # no module of this one: its steps are
        for name, parameter in chain.named_parameters():
            self.register_parameter(name, parameter)
        for name in step_names(chain.depth):
            self.add_module(name, _Step())

    def forward(self, x: Tensor) -> Tensor:
        (chain,) = self.held
        h = x[None]
        for place, step in zip(self.children(), chain.steps, strict=True):
            h = place(h, step)
        return chain.readout(h)


def one_member(chain: Chain) -> nn.Module:
    """Return a chain of one member as a module.

    Raises:
        ValueError: for several members, which are as many networks.
    """
    if len(chain.members) != 1:
        raise ValueError(
            f"net is a Chain of {len(chain.members)} members, which are as many networks: expected one, "
            "st.Chain(..., seeds=1); st.propagation and st.gradient_norms take them together"
        )
    return Member(chain)
