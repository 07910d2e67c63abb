"""Runs of a network in which a state between two layers is replaced by another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from stability.foundation.formats import Format
from stability.reading.network import Network
from stability.reading.refusals import refuse_chance
from stability.reading.running import eagerly, run, same_values, title
from stability.reading.traces import undisturbed
from stability.reading.trees import tensors_in

#: What a state is replaced by: the numbers of its tensors, or the number of an earlier state of the same run.
Replacement = list[Tensor] | int


class ReplacedStates:
    """A network whose states can be replaced as it runs: whatever follows a cut is made of the state there alone.

    Numbers are written into the tensors of a state as soon as there are any, so that nothing of the network is called
    otherwise than in a run of its own: a layer that is told its place, or the time, hears the same.

    Args:
        network: the reading of a module.
        what: is done with it, for messages.

    Attributes:
        layers: the names of the layers; state number l is that after the first l of them.
        shapes: of the tensors of every state.
        output: what the network returns as it is.

    Raises:
        ValueError: where the layers are not separated, random numbers are drawn, or the network gives other values
            when states are replaced by themselves.
    """

    def __init__(self, network: Network, what: str) -> None:
        self.network = network
        with network.forward() as found:
            refuse_chance(network, found, f"{what} is no one number")
            found.check_states()
            states = found.states(what)
            order = {edge: number for number, edge in enumerate(found.recording.seen)}
            self.layers = found.layers
            self.shapes = [state.shapes for state in states]
            self._places = [[order[edge] for edge in state.edges] for state in states]
            self.output = self._tensor_of(found.output)
        with undisturbed(network.module), torch.no_grad(), eagerly(network.module):
            plain = self._tensor_of(run(network.module, network.copied()))
        replaced, _ = self.run({number: number for number in range(len(states))})
        if not same_values(plain, replaced):
            raise ValueError(
                f"{title(network.module)} gives other values when its states are replaced by themselves: it looks at "
                "more than their numbers, or has hooks or compiled parts that behave otherwise when it is followed"
            )

    def _tensor_of(self, output: object) -> Tensor:
        """Return the first floating tensor of an output."""
        found = next((t for t in tensors_in(output) if t.is_floating_point() or t.is_complex()), None)
        if found is None:
            raise ValueError(
                f"{title(self.network.module)} returns a {type(output).__name__}: expected a floating tensor in it"
            )
        return found.detach()

    def same(self, one: int, other: int) -> bool:
        """Whether two states are the same tensors, as around a layer that is the identity."""
        return self._places[one] == self._places[other]

    def run(
        self, replaced: Mapping[int, Replacement], kept: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, list[Tensor]]]:
        """Run the network with some states replaced.

        Args:
            replaced: by the number of the state.
            kept: numbers of states that are wanted, as they are once they are replaced.

        Returns:
            The first floating tensor of the output, and copies of the states that are wanted.
        """
        wanted = {*kept, *(one for one in replaced.values() if isinstance(one, int))}
        at: dict[int, list[tuple[int, int]]] = {}
        for state in sorted({*wanted, *replaced}):
            for part, place in enumerate(self._places[state]):
                at.setdefault(place, []).append((state, part))
        values: dict[int, dict[int, Tensor]] = {state: {} for state in wanted}

        def meet(place: int, tensor: Tensor) -> None:
            for state, part in at.get(place, ()):
                if state in replaced and replaced[state] != state:
                    source = replaced[state]
                    own = values[source].get(part) if isinstance(source, int) else source[part]
                    self._write(state, tensor, own)
                elif state in replaced:
                    self._write(state, tensor, tensor.detach().clone())
                if state in values:
                    values[state][part] = tensor.detach().clone()

        output = self.network.rerun(meet)
        missing = [state for state in wanted if len(values[state]) < len(self._places[state])]
        if missing:
            raise ValueError(
                f"{title(self.network.module)} takes another way when a state is replaced: state {missing[0]} is not "
                "met again"
            )
        return self._tensor_of(output), {state: [part for _, part in sorted(values[state].items())] for state in kept}

    def _write(self, state: int, tensor: Tensor, numbers: Tensor | None) -> None:
        name = self.layers[max(state - 1, 0)]
        if numbers is None or numbers.shape != tensor.shape:
            raise ValueError(
                f"the state after layer {name} cannot be replaced: its tensors are made in another order than those of "
                "the state that takes its place; name other layers="
            )
        try:
            # Not through autograd: a state that is a view keeps its place in the graph.
            tensor.data.copy_(numbers)
        except RuntimeError as error:
            raise ValueError(
                f"the state after layer {name} cannot be replaced, as its numbers share memory ({error}): name other "
                "layers="
            ) from error


def check_in_range(output: Tensor, what: str) -> None:
    """Raise where an altered network leaves the range of its format."""
    if not output.isfinite().all():
        raise ValueError(
            f"with {what} the output is not finite in {Format(output.dtype).name}: it leaves the range; scale the "
            "weights or the points, or take a wider dtype"
        )
