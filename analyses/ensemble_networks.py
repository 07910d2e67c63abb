"""The networks of ensemble.py that are modules: their tasks, their training, and five that a package ships."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import xarray
from torch import Tensor, nn
from torch.nn import functional

import your_model


def examples(name: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return gratings in ten directions under noise, or tokens of which each says where the one to copy stands."""
    if name == "resnet":
        which = torch.randint(10, (count,), generator=generator)
        angle, phase = which * math.pi / 10, 2 * math.pi * torch.rand(count, generator=generator)
        u, v = torch.meshgrid(*[torch.arange(2.0 * your_model.SIDE)] * 2, indexing="ij")
        wave = angle.cos()[:, None, None] * u + angle.sin()[:, None, None] * v
        image = (1.5 * wave + phase[:, None, None]).sin()[:, None].expand(-1, 3, -1, -1)
        return (image + 0.5 * torch.randn(image.shape, generator=generator)).double(), which
    tokens = torch.randint(your_model.VOCABULARY, (count, your_model.TOKENS), generator=generator)
    here, one, two = tokens[:, 2:], tokens[:, 1:-1], tokens[:, :-2]
    return tokens, torch.where(here % 2 == 0, one, two)


def logits_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return (examples, classes), of a transformer for the places that have an answer."""
    output = model(x)
    return output[:, -y.shape[1] :].flatten(0, 1) if output.ndim == 3 else output


def without_blocks(model: nn.Module, chosen: Sequence[int]) -> nn.Module:
    altered = copy.copy(model)
    altered._modules = dict(model._modules)
    kept = [block for number, block in enumerate(model.blocks) if number not in chosen]
    altered.blocks = nn.Sequential(*kept) if isinstance(model.blocks, nn.Sequential) else nn.ModuleList(kept)
    return altered


@torch.no_grad()
def errors_without(model: nn.Module, sets: Sequence[Sequence[int]], x: Tensor, y: Tensor) -> np.ndarray:
    """Return the share of wrong answers without each of some sets of blocks."""
    answers = [logits_of(without_blocks(model, chosen), x, y).argmax(dim=1) for chosen in sets]
    return np.array([float((one != y.flatten()).double().mean()) for one in answers])


def train(name: str, model: nn.Module, steps: int, generator: torch.Generator) -> None:
    """Train a network on examples that it sees once, by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        given, wanted = examples(name, 64, generator)
        optimizer.zero_grad()
        functional.cross_entropy(logits_of(model, given, wanted), wanted.flatten()).backward()
        optimizer.step()


class SpliceBlock(nn.Module):
    """h + conv(relu(norm(conv(relu(norm(h)))))), with what a block of SpliceAI has learned."""

    def __init__(self, number: int, weights: Callable[[str], list[Tensor]]) -> None:
        super().__init__()
        self.dilation = (1, 4, 10, 25)[number // 4]
        self.parts = []
        for part in (0, 1):
            gamma, beta, mean, variance = weights(f"batch_normalization_{2 * number + part + 1}")
            scale = gamma / (variance + 1e-3).sqrt()
            kernel, bias = weights(f"conv1d_{3 + 2 * number + number // 4 + part}")
            self.parts.append((scale[:, None], (beta - mean * scale)[:, None], kernel.permute(2, 1, 0), bias))

    def forward(self, h: Tensor) -> Tensor:
        branch = h
        for scale, shift, kernel, bias in self.parts:
            branch = (branch * scale + shift).relu()
            branch = functional.conv1d(branch, kernel, bias, padding="same", dilation=self.dilation)
        return h + branch


def splice_networks(count: int) -> list[tuple[nn.Module, list[SpliceBlock]]]:
    """Return stems and blocks of the networks that the package ships, none where it is absent."""
    package = importlib.util.find_spec("spliceai")
    if package is None or not package.submodule_search_locations:
        return []
    networks = []
    for number in range(1, count + 1):
        with h5py.File(Path(package.submodule_search_locations[0]) / "models" / f"spliceai{number}.h5") as file:

            def weights(layer: str, stored: Any = file["model_weights"]) -> list[Tensor]:
                names = stored[layer].attrs["weight_names"]
                return [torch.from_numpy(stored[layer][name.decode()][()]) for name in names]

            kernel, bias = weights("conv1d_1")
            stem = nn.Conv1d(4, len(bias), 1)
            stem.weight, stem.bias = nn.Parameter(kernel.permute(2, 1, 0)), nn.Parameter(bias)
            networks.append((stem, [SpliceBlock(block, weights) for block in range(16)]))
    return networks


def probed(blocks: Sequence[Callable[[Tensor], Tensor]], h: Tensor, direction: Tensor) -> dict[str, np.ndarray]:
    """Return what `paths_of` does, of the coefficients times one random direction, which no Jacobian is formed for.

    Blocks may be any torch modules that keep the shape of h.
    """
    coefficients, strengths = direction[None], []
    for block in blocks:

        def push(given: Tensor, block: Any = block, h: Tensor = h) -> Tensor:
            return torch.func.jvp(block, (h,), (given,))[1]

        moved = torch.stack([push(one) - one for one in (direction, *coefficients)])
        strengths.append(float(moved[0].square().sum() / direction.square().sum()))
        empty = torch.zeros_like(direction)[None]
        coefficients = torch.cat([coefficients, empty]) + torch.cat([empty, moved[1:]])
        h = block(h)
    energy = coefficients.flatten(1).double().square().sum(dim=1)
    random = np.ones(1)
    for strength in strengths:
        random = np.convolve(random, [1, strength])
    share, random = (energy / energy.sum()).numpy(), random / random.sum()
    lengths = np.arange(len(share))
    return {"share": share, "random": random, "mean": lengths @ share, "random_mean": lengths @ random}


@torch.no_grad()
def splice_paths(count: int, length: int, seed: int) -> xarray.Dataset:
    """Return the energies of the paths of SpliceAI's networks, each at a random sequence, if it is there."""
    found = []
    for number, (stem, blocks) in enumerate(splice_networks(count)):
        generator = torch.Generator().manual_seed(5 * seed + number)
        bases = torch.randint(4, (1, length), generator=generator)
        h = stem(functional.one_hot(bases, 4).mT.float())
        found.append(probed(blocks, h, torch.randn(h.shape, generator=generator)))
    over = {"share": ("seed", "length"), "random": ("seed", "length"), "mean": ("seed",), "random_mean": ("seed",)}
    return xarray.Dataset({name: (dims, [one[name] for one in found]) for name, dims in over.items()} if found else {})
