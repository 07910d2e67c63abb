"""The spectrum of a product of given matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from stability.foundation.arguments import door
from stability.foundation.checks import check_finite
from stability.foundation.formats import SPACING, coarsest
from stability.jacobians.exact_products import exact_log_values
from stability.jacobians.products import Array, PrefixProducts, log_spectral_norm
from stability.jacobians.self_check import Losses, SelfCheck, against_exact, difference_of_spectra, self_check
from stability.jacobians.spectrum import Spectrum

Matrices = Tensor | ArrayLike | Sequence[Tensor] | Sequence[ArrayLike]


def matrix_spectrum(matrices: Matrices, check: bool, distances: bool, progress: bool) -> Spectrum:
    """Return the spectrum of every prefix product J_l ... J_1 of given matrices: see `spectrum`."""
    layers, batch, dtype = layers_of(matrices)
    s = spectrum_of_layers(layers, batch, dtype, SPACING, check, distances, progress)
    return s if s.self_check is None else _with_exact(s, s.self_check, layers)


def _with_exact(s: Spectrum, check: SelfCheck, layers: Sequence[Array]) -> Spectrum:
    """Put exact values in place of those that float64 cannot vouch for."""
    log_values = s.log_values.reshape(s.depth, -1, s.log_values.shape[-1]).numpy()  # views: what is put in them is in s
    undecided = s.undecided.reshape(s.depth, -1).numpy()
    exact = exact_log_values(layers, _unclear(check, undecided))
    lost = undecided.copy()
    for member, values in exact.items():
        log_values[:, member], undecided[:, member] = values, 0
    return replace(s, self_check=against_exact(check, log_values, lost, exact))


@door
def check_spectrum(matrices: Matrices, log_values: Tensor | ArrayLike) -> SelfCheck:
    """Test whether log_values can be the log singular values of every prefix product of `matrices`.

    Args:
        matrices: as for `spectrum`.
        log_values: (depth, *batch, k), what is claimed, by whatever method.

    Returns:
        A `SelfCheck`.

    A product that is formed and decomposed holds rounding noise in place of its smaller values:

    >>> import torch, stability as st
    >>> J = torch.randn(20, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> bool(st.check_spectrum(J, st.naive_spectrum(J)).passed)
    False
    >>> bool(st.check_spectrum(J, st.spectrum(J).log_values).passed)
    True
    """
    layers, batch, dtype = layers_of(matrices)
    columns = min(layers[0].shape[1:])
    claimed = _claims(log_values)
    expected = (len(layers), *batch, columns)
    if claimed.shape != expected:
        raise ValueError(f"log_values has shape {claimed.shape}: these matrices have {expected}, (depth, *batch, k)")
    if np.isnan(claimed).any() or (claimed == np.inf).any():
        raise ValueError("log_values holds NaN or +inf: expected finite logs, and -inf for exact zeros")
    size = int(np.prod(batch))
    claims = claimed.reshape(len(layers), size, columns)
    own, lost, conditions, _ = _run(layers, size, SPACING, distances=False, progress=False)
    check = self_check(layers, claims, Losses(lost, conditions, SPACING), dtype, batch)
    apart = difference_of_spectra(claims, own[..., :columns], lost).max(axis=0)
    check = replace(check, reversed=check.reversed.maximum(torch.from_numpy(apart).reshape(batch)))
    return against_exact(check, claims, lost, exact_log_values(layers, _unclear(check, lost)))


def _claims(log_values: Tensor | ArrayLike) -> Array:
    if isinstance(log_values, Tensor):
        return log_values.detach().to("cpu", torch.float64).numpy()
    try:
        return np.asarray(log_values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"log_values is {type(log_values).__name__}: expected numbers (depth, *batch, k), such as "
            f"Spectrum.log_values ({error})"
        ) from error


def _unclear(check: SelfCheck, lost: NDArray[np.int64]) -> list[int]:
    """Return the members of the batch whose values float64 cannot vouch for."""
    return np.flatnonzero(~check.passed.reshape(-1).numpy() | (lost > 0).any(axis=0)).tolist()


def spectrum_of_layers(
    layers: Sequence[Array],
    batch: tuple[int, ...],
    dtype: torch.dtype,
    spacing: float,
    check: bool,
    distances: bool,
    progress: bool,
) -> Spectrum:
    """Return the spectrum of layers [(size, m, n), ...] with a batch of `size` products of shape `batch`.

    Args:
        dtype: what the layers came in. spacing: relative to the size of a row, what is not told from zero in them: that
            of the dtype where they were calculated in it, of float64 where they are given numbers.
    """
    depth, size = len(layers), len(layers[0])
    sizes = tuple(np.minimum.accumulate([min(layer.shape[1:]) for layer in layers]).tolist())
    log_values, lost, conditions, product_distances = _run(layers, size, spacing, distances, progress)
    log_values = np.ascontiguousarray(log_values[..., : sizes[0]])

    def shaped(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).reshape(depth, *batch, *values.shape[2:])

    layer_distances = None
    if distances and all(layer.shape[1] == layer.shape[2] for layer in layers):
        with np.errstate(over="ignore"):
            stacked = [np.exp(log_spectral_norm(layer - np.eye(layer.shape[1]))) for layer in layers]
        layer_distances = shaped(np.stack(stacked))
    return Spectrum(
        log_values=shaped(log_values),
        sizes=sizes,
        undecided=shaped(lost),
        distance_from_identity=layer_distances,
        log_product_distance=None if layer_distances is None else shaped(product_distances),
        self_check=self_check(layers, log_values, Losses(lost, conditions, spacing), dtype, batch) if check else None,
        layers=tuple(f"matrix {number}" for number in range(1, depth + 1)),
    )


def _run(
    layers: Sequence[Array], size: int, spacing: float, distances: bool, progress: bool
) -> tuple[Array, NDArray[np.int64], Array, Array]:
    depth, columns = len(layers), layers[0].shape[2]
    products = PrefixProducts(size, columns)
    log_values = np.empty((depth, size, columns))
    lost, conditions = np.empty((depth, size), dtype=np.int64), np.empty((depth, size))
    product_distances = np.empty((depth, size))
    for layer, factor in enumerate(tqdm(layers, desc="products", disable=None if progress else True)):
        products.multiply(factor, spacing)
        lost[layer], conditions[layer] = products.lost, products.conditions
        log_values[layer] = products.log_values()
        if distances and factor.shape[1] == columns:
            product_distances[layer] = products.log_distance_from_identity()
    return log_values, lost, conditions, product_distances


def layers_of(matrices: Matrices) -> tuple[list[Array], tuple[int, ...], torch.dtype]:
    """Return the matrices as float64 (size, m, n) each, the shape of the batch and the dtype they came in."""
    is_array = isinstance(matrices, np.ndarray | Tensor) and matrices.ndim > 0
    if not is_array and (isinstance(matrices, str) or not isinstance(matrices, Sequence)):
        raise TypeError(f"matrices is {matrices!r}: expected a tensor or a sequence of matrices, the first one first")
    given: list[object] = list(matrices)  # type: ignore[arg-type]
    if not given:
        raise ValueError("there are no matrices: expected at least one layer")
    layers: list[Array] = []
    dtypes: list[torch.dtype] = []
    batch: tuple[int, ...] | None = None
    for number, one in enumerate(given, start=1):
        tensor = _tensor_of(number, one)
        if tensor.ndim < 2 or 0 in tensor.shape:
            raise ValueError(
                f"matrix {number} has shape {tuple(tensor.shape)}: expected (*batch, m, n), none of them 0; all "
                "matrices together are (depth, *batch, n, n)"
            )
        check_finite(f"matrix {number}", tensor)
        if not tensor.is_floating_point():
            _check_integers(number, max(abs(int(tensor.max())), abs(int(tensor.min()))))
        if batch is None:
            batch = tuple(tensor.shape[:-2])
        elif tuple(tensor.shape[:-2]) != batch:
            raise ValueError(f"matrix {number} has the batch {tuple(tensor.shape[:-2])}, the ones before have {batch}")
        if layers and tensor.shape[-1] != layers[-1].shape[1]:
            raise ValueError(
                f"matrix {number} takes {tensor.shape[-1]} numbers and the one before gives {layers[-1].shape[1]}: the "
                "first of the sequence is the first applied, the product is J_L ... J_1"
            )
        dtypes.append(tensor.dtype if tensor.dtype.is_floating_point else torch.float64)
        layers.append(tensor.double().reshape(-1, *tensor.shape[-2:]).numpy())
    assert batch is not None
    return layers, batch, coarsest(dtypes)


def _tensor_of(number: int, one: object) -> Tensor:
    """Return one matrix, or a batch of them, as a tensor of real numbers that torch can calculate with."""
    if isinstance(one, Tensor):
        if one.layout != torch.strided or one.is_meta or one.is_quantized:
            raise TypeError(f"matrix {number} is {one.layout} on {one.device}: expected a dense tensor with numbers")
        tensor = one.detach().cpu()
        if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64):
            return _tensor_of(number, tensor.numpy())
    else:
        if isinstance(one, np.ma.MaskedArray):
            raise TypeError(f"matrix {number} is a masked array: fill it, the product of a masked number is not known")
        try:
            array = np.asarray(one)
        except ValueError as error:
            raise ValueError(f"matrix {number} is no array of numbers: {error}") from error
        if array.dtype.kind in "iu" or (array.dtype == object and all(isinstance(n, int) for n in array.flat)):
            _check_integers(
                number, max((abs(int(n)) for n in (array.max(), array.min())), default=0) if array.size else 0
            )
            array = array.astype(np.float64)
        elif array.dtype.kind not in "fcb" or array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
            raise TypeError(f"matrix {number} holds {array.dtype}: expected real numbers, float64 or a smaller format")
        tensor = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"matrix {number} holds {tensor.dtype}: expected real numbers")
    return tensor


def _check_integers(number: int, large: int) -> None:
    if large > 2**53:
        raise ValueError(
            f"matrix {number} holds the integer {large}: float64 holds integers up to 2^53 exactly; give floats"
        )
