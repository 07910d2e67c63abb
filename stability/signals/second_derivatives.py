"""The gradient of a loss and its own derivative, as products of the Hessian with vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stability.foundation.formats import Format, coarsest
from stability.reading.chain_reading import Steps
from stability.reading.cuts import below
from stability.reading.network import Network
from stability.reading.refusals import random_place
from stability.reading.running import eagerly, run, title
from stability.reading.traces import generators, same_states, undisturbed
from stability.signals.losses import Loss, evaluate, loss_of_members, scalar_loss

#: So many products with a Hessian are taken at once, and for a chain in all its seeds together.
BATCH, CHAIN_BATCH = 64, 512
#: How far parameters are moved, relative to their size, by powers of the spacing of their format.
_MOVES = (0.2, 1 / 3, 0.45)


class SecondDerivatives:
    """H v at the parameters of a network, all seeds at once; a module is one.

    Attributes:
        values: of the loss, (seeds,).
        gradient: (seeds, parameters).
        dtype: the coarsest format of the parameters.
    """

    def __init__(self, reading: Steps | Network, loss: Loss) -> None:
        self.reading, self.loss = reading, loss
        self.seeds = len(reading.members)
        self.net: nn.Module = reading.chain if isinstance(reading, Steps) else reading.module
        named = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError(f"no parameter of {title(self.net)} requires a gradient; call requires_grad_() on some")
        for name, p in named.items():
            if p.is_complex():
                raise ValueError(f"the parameter {name} is complex: a Hessian is of real parameters")
        self._parameters = list(named.values())
        self.size = sum(p.numel() for p in self._parameters) // self.seeds
        self.dtype = coarsest({p.dtype for p in self._parameters})
        self.values = torch.empty(0)
        self.gradient = torch.empty(0)
        self._graph: Tensor = torch.empty(0)
        self._one_by_one = self._probed = False

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Run the network; inside, products can be taken, and afterwards everything is as it was."""
        with (
            undisturbed(self.net, self.loss),
            torch.inference_mode(False),
            torch.enable_grad(),
            eagerly(self.net),
            sdpa_kernel(SDPBackend.MATH),
        ):
            before = generators(self.net)
            values = self._evaluate(check=True)
            if not same_states(before, generators(self.net)):
                place = f", {random_place(self.reading)}" if isinstance(self.reading, Network) else ""
                raise ValueError(
                    f"{title(self.net)}, or the loss, draws random numbers when it runs{place}: it has no one Hessian; "
                    "call eval() first, or take out what draws them"
                )
            self.values = values.detach().reshape(self.seeds).double().cpu()
            try:
                self._graph = self._gradient(values, create_graph=True)
            except RuntimeError as error:
                raise ValueError(self._not_twice(error)) from error
            # A backward pass that is for once has a node that leads nowhere, and is skipped in silence.
            if any(
                node.name().endswith("::Error")
                for node in below([] if self._graph.grad_fn is None else [self._graph.grad_fn])
            ):
                raise ValueError(self._not_twice("its backward pass is marked as once differentiable"))
            self.gradient = self._graph.detach().double().cpu()
            if not self.gradient.isfinite().all():
                raise ValueError("the gradient of the loss is not finite: it overflows, or the loss has a kink there")
            yield
            self._graph = torch.empty(0)

    def _evaluate(self, check: bool = False) -> Tensor:
        """Return the loss of each seed in its graph."""
        reading = self.reading
        if isinstance(reading, Steps):
            output = reading.chain(reading.x.detach())
            if check:
                loss_of_members(self.loss, output.detach())
            return evaluate(self.loss, output)
        return scalar_loss(self.loss, run(reading.module, reading.copied()))

    def _gradient(self, values: Tensor, create_graph: bool = False) -> Tensor:
        found = torch.autograd.grad(values.sum(), self._parameters, create_graph=create_graph, allow_unused=True)
        return self._flat(found)

    def _flat(self, tensors: tuple[Tensor | None, ...], lead: tuple[int, ...] = ()) -> Tensor:
        """Return tensors like the parameters, behind the dimensions `lead`, as (*lead, seeds, parameters)."""
        parts = [
            p.new_zeros(*lead, self.seeds, p.numel() // self.seeds) if t is None else t.reshape(*lead, self.seeds, -1)
            for p, t in zip(self._parameters, tensors, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    def times(self, vectors: Tensor) -> Tensor:
        """Return H v for (count, seeds, parameters) vectors, float64 on the CPU."""
        if not self._graph.requires_grad:  # a loss that is linear in the parameters
            return torch.zeros(vectors.shape, dtype=torch.float64)
        given = vectors.to(self._graph)
        if len(given) > 1 and not self._one_by_one:
            try:
                found = self._products(given)
                if self._probed or self._are(found, given):
                    self._probed = True
                    return found.double().cpu()
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                pass  # some operation does not take many vectors at once
            self._one_by_one = True
        return torch.stack([self._product(vector) for vector in given]).double().cpu()

    def _are(self, products: Tensor, vectors: Tensor) -> bool:
        """Whether products that were taken at once sum up to the product with the sum of the vectors."""
        expected = self._product(vectors.sum(dim=0))
        size = products.abs().sum(dim=0).amax(dim=-1, keepdim=True)
        apart = (products.sum(dim=0) - expected).abs()
        return bool((apart <= 1e3 * Format(self.dtype).spacing * size).all())

    def _products(self, vectors: Tensor) -> Tensor:
        found = torch.autograd.grad(
            self._graph, self._parameters, vectors, is_grads_batched=True, retain_graph=True, allow_unused=True
        )
        return self._flat(found, lead=(len(vectors),)).detach()

    def _product(self, vector: Tensor) -> Tensor:
        try:
            found = torch.autograd.grad(self._graph, self._parameters, vector, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise ValueError(self._not_twice(error)) from error
        return self._flat(found).detach()

    def _not_twice(self, error: object) -> str:
        return (
            f"{title(self.net)}, or the loss, cannot be differentiated twice ({error}): write the operation otherwise"
        )

    def full(self) -> Tensor:
        """Return H, (seeds, parameters, parameters), as it comes, and so symmetric up to rounding."""
        matrix = torch.empty(self.seeds, self.size, self.size, dtype=torch.float64)
        batch = max(BATCH // 2, CHAIN_BATCH // self.seeds) if isinstance(self.reading, Steps) else BATCH
        for start in range(0, self.size, batch):
            stop = min(self.size, start + batch)
            units = torch.zeros(stop - start, self.seeds, self.size, dtype=torch.float64)
            units[torch.arange(stop - start), :, torch.arange(start, stop)] = 1.0
            matrix[:, start:stop] = self.times(units).movedim(0, 1)
        return matrix

    def against_differences(self) -> Tensor:
        """Return how far H v is from central differences of the gradient, relative, the least of several steps."""
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(self.seeds, self.size, generator=generator, dtype=torch.float64)
        expected = self.times(vector[None])[0]
        parameters = self._flat(tuple(p.detach() for p in self._parameters)).double().cpu()
        size = parameters.square().mean(dim=1).sqrt().clamp(min=0.1)[:, None]
        natural = 1e-6 * (self.values.abs()[:, None] / size**2 + self.gradient.abs().amax(1, keepdim=True) / size)
        scale = (expected.norm(dim=1) + natural[:, 0]).clamp(min=1e-300)
        found = torch.full((self.seeds,), float("inf"), dtype=torch.float64)
        for power in _MOVES:
            step = Format(self.dtype).spacing ** power * size
            ends = [self._gradient_at(parameters + sign * step * vector) for sign in (1, -1)]
            difference = (ends[0] - ends[1]) / (2 * step)
            found = torch.fmin(found, (difference - expected).norm(dim=1) / scale)
        return found

    def _gradient_at(self, parameters: Tensor) -> Tensor:
        before = [p.detach().clone() for p in self._parameters]
        start = 0
        with torch.no_grad():
            for p in self._parameters:
                width = p.numel() // self.seeds
                p.copy_(parameters[:, start : start + width].reshape(p.shape))
                start += width
        found = self._gradient(self._evaluate()).double().cpu()
        with torch.no_grad():
            for p, own in zip(self._parameters, before, strict=True):
                p.copy_(own)
        return found
