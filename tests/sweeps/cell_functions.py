"""Functions of cells that tests sweep over, importable by the workers."""

import os
import signal
import time

import numpy as np
import xarray

X = np.linspace(0, 1, 5)


def line(slope, shift):
    return xarray.Dataset({"y": ("x", slope * X + shift), "count": 3}, {"x": X}, {"unit": "1"})


def slow_line(slope, shift):
    time.sleep(0.2)
    return line(slope, shift)


def odd(slope, shift):
    """Give what is none, overlaps, fits badly, raises, or takes its process with it."""
    kinds = {
        1: lambda: 7.0,
        2: lambda: line(slope, shift).rename(y="slope"),
        3: lambda: line(slope, shift).rename(y="z"),
        4: lambda: 1 / 0,
        5: lambda: os.kill(os.getpid(), signal.SIGKILL),
    }
    return kinds.get(slope, lambda: line(slope, shift))()
