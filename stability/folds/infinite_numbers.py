"""Which number of a module is not finite, where what it makes of a line or a plane is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from stability.foundation.checks import check_finite


def name_what_is_not_finite(net: object) -> None:
    """Raise with the parameter or buffer of a module that is not finite, if there is one."""
    if isinstance(net, nn.Module):
        for name, value in itertools.chain(net.named_parameters(), net.named_buffers()):
            if value.is_floating_point():
                check_finite(f"the module's {name}", value)


@contextmanager
def named_if_not_finite(net: object) -> Iterator[None]:
    """Tell of a number that is infinite where it is to be a rational one."""
    try:
        yield
    except OverflowError:
        name_what_is_not_finite(net)
        raise ValueError("the network has numbers that are infinite: expected finite numbers only") from None
