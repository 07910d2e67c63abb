"""How long does `import stability` take beside `import torch`, which it needs?

Both in fresh processes, in turns, the best of several. The names of the package load their rooms when they are first
asked for, so that scipy, sympy, xarray, matplotlib and numba wait until something needs them; so does torch itself.
"""

from __future__ import annotations

import subprocess
import sys

TURNS = 5
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module: str) -> float:
    """Return how long one import takes."""
    return float(subprocess.run([sys.executable, "-c", PROGRAM.format(module)], capture_output=True, check=True).stdout)


def main() -> None:
    best = dict.fromkeys(("torch", "torch, stability", "torch, stability; stability.Chain"), float("inf"))
    for _ in range(TURNS):
        for module in best:
            best[module] = min(best[module], seconds(module))
    for module, time in best.items():
        ratio = time / best["torch"]
        verdict = "" if module == "torch" else f" (wanted <= 1.3: {'holds' if ratio <= 1.3 else 'DOES NOT HOLD'})"
        print(f"import {module}: {time:.2f} s, {ratio:.2f} times import torch{verdict}")


if __name__ == "__main__":
    main()
