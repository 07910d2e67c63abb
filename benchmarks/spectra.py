"""What do right singular values cost, next to a product that is formed and decomposed?

Everything runs in one thread, after a call that warms up; what is compared is called in turns and medians are divided.

- 64 layers of width 256: every prefix, all 256 values. The naive recipe forms the prefix products in float64 and takes
  svdvals of each. Errors are against 300 digits, from spectra_reference.npz (see spectra_reference.py).
- The same with the checks that the values are put to by default, which the recipe has none of.
- Width 64 to depth 1000, where the range of the values calls for rotations in the log domain throughout.
- A chain of width 1 to depth 1000 at 1024 points: every prefix, against torch.func.vmap(jacrev) over the states, and
  against writing an array as long as the result.
- Depth 10,000 against depth 1000.
- The spread over path lengths of 1000 layers of width 16, against one spectrum of the same chain; and of the width 1.
- Blocks of a transformer with states of 1,024 numbers, and others: leading values against all of them.
- Lyapunov exponents of 2,000 steps of a map of the plane, against multiplying and renormalising by numpy's QR.

A ratio that does not hold is reported, and is no failure.
"""

from __future__ import annotations

import argparse
import math
import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported
os.environ["NUMBA_NUM_THREADS"] = "1"

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from spectra_reference import PATH, PREFIXES, layers
from torch import nn

import stability as st

Call = Callable[[], object]


def medians(*calls: Call, rounds: int) -> list[float]:
    """Return the median seconds of each, called in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for call, one in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if round_:  # the first warms up
                one.append(time.perf_counter() - start)
    return [float(np.median(one)) for one in times]


def naive(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    product, values = np.eye(matrices.shape[1]), []
    for matrix in matrices:
        product = matrix @ product
        values.append(np.linalg.svd(product, compute_uv=False))
    with np.errstate(divide="ignore"):
        return np.log(np.array(values))


def verdict(ratio: float, *, at_most: float | None = None, at_least: float | None = None) -> str:
    held = (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)
    wanted = f"wanted <= {at_most:g}" if at_most is not None else f"wanted >= {at_least:g}"
    return f"{ratio:.3g} ({wanted}: {'holds' if held else 'DOES NOT HOLD'})"


def wide(rounds: int) -> None:
    matrices = layers()
    plain = lambda: st.spectrum(matrices, check=False, distances=False)  # noqa: E731
    checked = lambda: st.spectrum(matrices, distances=False)  # noqa: E731
    ours, with_check, theirs = medians(plain, checked, lambda: naive(matrices), rounds=rounds)
    print("64 layers of width 256, all prefixes, all values")
    print(f"  ours {ours:.3f} s, with both self-checks {with_check:.3f} s, naive {theirs:.3f} s")
    print(f"  ours / naive: {verdict(ours / theirs, at_most=3)}")
    print(f"  with both self-checks / naive: {verdict(with_check / theirs, at_most=4.5)}")
    found, other = plain().log_values.numpy(), naive(matrices)
    reference = np.load(PATH)
    print(f"  {'prefix':>8} {'condition':>10} {'our error':>11} {'right':>10} {'naive':>11} {'right':>10}")
    for prefix in PREFIXES:
        exact = reference[str(prefix)]
        errors = [abs(logs[prefix - 1] - exact) for logs in (found, other)]
        right = [f"{(error < 1e-9).sum()} of 256" for error in errors]
        condition = f"10^{(exact[0] - exact[-1]) / math.log(10):.0f}"
        cells = (f"{e.max():>11.1e} {r:>10}" for e, r in zip(errors, right, strict=True))
        print(f"  {prefix:>8} {condition:>10} {' '.join(cells)}")
    print(f"  {st.spectrum(matrices, distances=False).self_check}")


def deep(quick: bool) -> None:
    depth = 100 if quick else 1000
    matrices = np.random.default_rng(1).standard_normal((depth, 64, 64)) / 8
    start = time.perf_counter()
    s = st.spectrum(matrices, check=False, distances=False)
    seconds = time.perf_counter() - start
    print(
        f"width 64, depth {depth}, all prefixes: {seconds:.2f} s, {1e3 * seconds / depth:.2f} ms a layer; condition "
        f"10^{s.log_condition[-1] / math.log(10):.0f}"
    )


def width_one(quick: bool, rounds: int) -> None:
    depth, points = (100 if quick else 1000), 1024
    chain = st.Chain("residual2_prelu", depth)
    x = torch.linspace(-3, 3, points, dtype=torch.float64)

    def states(point: torch.Tensor) -> torch.Tensor:
        h, all_states = point[None], []
        for step in chain.steps:
            h = step(h)
            all_states.append(h[0, 0])
        return torch.stack(all_states)

    run = lambda: st.spectrum(chain, x, distances=False)  # noqa: E731
    ours, write = medians(run, lambda: write_result(depth, 1, points), rounds=10 * rounds)
    start = time.perf_counter()
    torch.func.vmap(torch.func.jacrev(states), chunk_size=16)(x[:64])
    theirs = (time.perf_counter() - start) * points / 64  # all at once would take tens of GiB
    start = time.perf_counter()
    torch.func.vmap(torch.func.jacfwd(states))(x)
    forward = time.perf_counter() - start
    print(f"width 1, depth {depth}, {points} points, all prefixes: ours {1e3 * ours:.2f} ms")
    print(f"  vmap(jacrev) {theirs:.2f} s, over ours: {verdict(theirs / ours, at_least=200)}")
    print(f"  vmap(jacfwd) {forward:.2f} s, over ours: {verdict(forward / ours, at_least=200)}")
    print(f"  writing the result {1e3 * write:.2f} ms, in the cache; ours over it: {verdict(ours / write, at_most=2)}")
    many = st.Chain("residual2_prelu", depth, seeds=32)
    ours, write = medians(
        lambda: st.spectrum(many, x, distances=False), lambda: write_result(depth, 32, points), rounds=rounds
    )
    print(
        f"  of 32 seeds: ours {1e3 * ours:.0f} ms, writing the result {1e3 * write:.0f} ms, in fresh memory; ours over "
        f"it: {verdict(ours / write, at_most=2)}"
    )


def write_result(*shape: int) -> None:
    np.full(shape, 0.5), np.full(shape, 1, np.int8)


def linear_in_depth(rounds: int) -> None:
    chains = [st.Chain("plain_prelu", depth) for depth in (1000, 10_000)]
    x = torch.linspace(-3, 3, 256, dtype=torch.float64)
    less, more = medians(*(lambda c=c: st.spectrum(c, x, distances=False) for c in chains), rounds=3 * rounds)
    print(f"width 1, depth 10,000 over depth 1000: {verdict(more / less, at_most=12)}")
    matrices = np.random.default_rng(2).standard_normal((10_000, 8, 8)) / math.sqrt(8)
    run = lambda depth: st.spectrum(matrices[:depth], check=False, distances=False)  # noqa: E731
    less, more = medians(lambda: run(1000), lambda: run(10_000), rounds=rounds)
    print(f"width 8, depth 10,000 over depth 1000: {verdict(more / less, at_most=12)}")


def path_lengths(quick: bool) -> None:
    depth = 100 if quick else 1000
    chain, x = st.Chain("residual2_prelu", depth, width=16), torch.ones(1, 16, dtype=torch.float64)
    spectrum, ours = medians(
        lambda: st.spectrum(chain, x, progress=False), lambda: st.paths(chain, x, progress=False), rounds=1
    )
    ratio = verdict(ours / spectrum, at_most=10)
    print(f"width 16, depth {depth}: all path lengths {ours:.2f} s; over a spectrum: {ratio}")
    many, x = st.Chain("residual2_prelu", depth, seeds=1000), torch.ones(1, dtype=torch.float64)
    (seconds,) = medians(lambda: st.paths(many, x), rounds=1)
    found = st.paths(many, x)
    print(
        f"width 1, depth {depth}, 1000 seeds: all path lengths {seconds:.2f} s; relative bound of the worst "
        f"{float((found.log_errors - found.log_norms).nan_to_num(nan=-math.inf).max().exp()):.1e}"
    )


def leading(quick: bool) -> None:
    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(128, 4, 512, 0.0, batch_first=True, norm_first=True)

    def tanh(n: int, depth: int) -> nn.Module:
        return nn.Sequential(*(nn.Sequential(nn.Linear(n, n), nn.Tanh()) for _ in range(depth)))

    torch.manual_seed(0)
    cases = {
        "4 encoder blocks, 8 tokens of 128": (nn.Sequential(*(block() for _ in range(4))), torch.randn(1, 8, 128)),
        "4 layers of 128, 16 points": (tanh(128, 4), torch.randn(16, 128)),
        "12 layers of 512": (tanh(512, 12), torch.randn(1, 512)),
        "48 layers of 300": (tanh(300, 48), torch.randn(1, 300)),
    }
    for name, (net, x) in list(cases.items())[: 2 if quick else None]:
        net.eval()
        everything, two = medians(
            lambda net=net, x=x: st.spectrum(net, x, distances=False, progress=False),
            lambda net=net, x=x: st.spectrum(net, x, k=2, progress=False),
            rounds=1,
        )
        print(f"{name}: all values {everything:.2f} s; k=2 over it: {verdict(two / everything, at_most=1.1)}")


def exponents() -> None:
    steps = np.random.default_rng(0).standard_normal((2000, 2, 2))

    def by_qr() -> None:
        q = np.eye(2)
        for step in steps:
            q, _ = np.linalg.qr(step @ q)

    ours, theirs = medians(lambda: st.lyapunov(steps, progress=False), by_qr, rounds=5)
    print(f"2,000 steps in the plane: {ours:.3f} s, over numpy's QR a step: {verdict(ours / theirs, at_most=4)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round each and less depth")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rounds = 1 if quick else 5
    wide(rounds)
    deep(quick)
    width_one(quick, rounds)
    linear_in_depth(rounds)
    path_lengths(quick)
    leading(quick)
    exponents()


if __name__ == "__main__":
    main()
