"""The spectrum of the Hessian of a loss with respect to the parameters of a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from stability.foundation.arguments import door
from stability.foundation.checks import check_integer, check_positive
from stability.foundation.formats import Format
from stability.reading.chain_reading import Steps
from stability.reading.read import AnyNetwork, read
from stability.signals.hessian_values import Hessian
from stability.signals.losses import Loss
from stability.signals.second_derivatives import SecondDerivatives

#: Eigenvalues at each end, where not all are taken.
ENDS = 6


@door
def hessian(
    net: AnyNetwork,
    x: object,
    loss: Loss,
    k: int | None = None,
    *,
    all_up_to: int = 1500,
    memory: float = 4.0,
) -> Hessian:
    """Return eigenvalues of the second derivative of a loss with respect to all parameters, seed by seed.

    For up to 1500 parameters the matrix is formed, a column a product of the Hessian with a unit vector, and all
    eigenvalues are taken. Beyond that the extreme ones are approached by Lanczos iteration (ARPACK) on such products,
    k at each end. Products are backward passes through the backward pass, in the dtype of the network; at a kink of
    a ReLU they take the side that the first derivative takes. Every eigenvalue comes with its residual, and the whole
    is held against differences of the gradient (`Hessian.against_differences`).

    Args:
        net: a chain, any module, or callables that follow one another; frozen parameters are left out.
        x: what it takes, as for `st.gradient_norms`.
        loss: as for `st.gradient_norms`: of a chain one value a seed, else a scalar.
        k: how many eigenvalues at each end, instead of all.
        all_up_to: up to how many parameters all eigenvalues are taken.
        memory: GiB that the matrices may take.

    Raises:
        ValueError, TypeError: for networks without parameters that require a gradient, random ones, operations that
            cannot be differentiated twice, losses as `st.gradient_norms` refuses them, Hessians that are not finite,
            and iterations that do not converge.

    >>> import torch, stability as st
    >>> x = torch.linspace(-3, 3, 64, dtype=torch.float64)
    >>> chain = st.Chain("residual2_prelu", depth=5, seeds=3)
    >>> h = st.hessian(chain, x, lambda y: (y - x.sin()).square().mean(dim=1))
    >>> h.eigenvalues.shape, h.complete
    (torch.Size([3, 25]), True)
    """
    all_up_to = check_integer("all_up_to", all_up_to, 1)
    check_positive("memory", memory)
    if k is not None:
        check_integer("k", k, 1)
    reading = read(net, x)
    if isinstance(reading, Steps):
        reading.check()
    second = SecondDerivatives(reading, loss)
    if k is not None and 2 * k > second.size:
        raise ValueError(f"k is {k}: of {second.size} parameters there are no {2 * k} eigenvalues; leave it out")
    whole = k is None and second.size <= all_up_to
    numbers = second.seeds * second.size * (2 * second.size if whole else 1)
    if 8 * numbers > memory * 2**30:
        raise ValueError(
            f"the Hessians take {8 * numbers / 2**30:.3g} GiB ({second.seeds} seeds, {second.size} parameters): the "
            f"budget is {memory:g} GiB. Raise memory=, take fewer seeds, or ask for the extreme eigenvalues alone with "
            "k="
        )
    with second.ready():
        if whole:
            values, residuals, tolerance = _all(second)
        else:
            values, residuals, tolerance = _extreme(second, ENDS if k is None else k)
        apart = second.against_differences()
        return Hessian(
            eigenvalues=values,
            residuals=residuals,
            tolerance=tolerance,
            against_differences=apart,
            agrees=apart <= (0.01 if second.dtype == torch.float64 else 0.5),
            loss=second.values,
            gradient_norm=second.gradient.norm(dim=1),
            parameters=second.size,
            members=reading.members,
        )


def _all(second: SecondDerivatives) -> tuple[Tensor, Tensor, Tensor]:
    matrix = second.full()
    if not matrix.isfinite().all():
        seed = int((~matrix.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"the Hessian of seed {seed} is not finite: a second derivative overflows, or has a pole there"
        )
    asymmetry = (matrix - matrix.mT).flatten(1).norm(dim=1)
    symmetric = (matrix + matrix.mT) / 2
    values, vectors = torch.linalg.eigh(symmetric)
    size = values.abs().amax(dim=1)
    residuals = (matrix @ vectors - vectors * values[:, None]).norm(dim=1) / torch.where(size > 0, size, 1.0)[:, None]
    if (asymmetry > 0.01 * matrix.flatten(1).norm(dim=1)).any():
        seed = int((asymmetry / matrix.flatten(1).norm(dim=1)).nan_to_num().argmax())
        raise ValueError(
            f"the Hessian of seed {seed} is not symmetric (by {float(asymmetry[seed]):.1e}): an operation of the "
            "network or of the loss has a wrong second derivative"
        )
    tolerance = torch.maximum(second.size * Format(second.dtype).spacing * size, 2 * asymmetry)
    return values.flip(1), residuals.flip(1), tolerance


def _extreme(second: SecondDerivatives, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest and the k smallest eigenvalues of every seed, their residuals, and the tolerance."""
    found = [_ends_of(second, seed, k) for seed in range(second.seeds)]
    values, residuals = (torch.from_numpy(np.stack(parts)) for parts in zip(*found, strict=True))
    size = values.abs().amax(dim=1)
    return values, residuals, second.size**0.5 * Format(second.dtype).spacing * size


def _ends_of(second: SecondDerivatives, seed: int, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = second.size

    def product(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        given = torch.zeros(1, second.seeds, n, dtype=torch.float64)
        given[0, seed] = torch.from_numpy(np.ascontiguousarray(vector.reshape(n)))
        found = second.times(given)[0, seed].numpy()
        if not np.isfinite(found).all():
            raise ValueError(f"the Hessian of seed {seed} is not finite: a second derivative overflows there")
        return np.asarray(found)

    start = np.random.default_rng(0).standard_normal(n)
    if not product(start).any():  # a random vector is in the null space of nothing but 0
        return np.zeros(2 * k), np.zeros(2 * k)
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
    tolerance = max(1e-10, 10 * Format(second.dtype).spacing)
    parts = []
    for which in ("LA", "SA"):
        try:
            parts.append(eigsh(operator, k, which=which, v0=start, tol=tolerance, ncv=min(n, max(4 * k + 1, 40))))
        except ArpackNoConvergence as error:
            raise ValueError(
                f"the eigenvalues of seed {seed} have not converged ({len(error.eigenvalues)} of {k} at the "
                f"{'upper' if which == 'LA' else 'lower'} end): ask for fewer with k="
            ) from error
    values = np.concatenate([np.asarray(one[0]) for one in parts])
    vectors = np.concatenate([np.asarray(one[1]) for one in parts], axis=1)
    size = abs(values).max() or 1.0
    residuals = np.array(
        [np.linalg.norm(product(v) - value * v) / size for value, v in zip(values, vectors.T, strict=True)]
    )
    order = np.argsort(-values)
    return values[order], residuals[order]
