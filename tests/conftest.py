"""What all tests share: one thread a worker, no window, and hypothesis without deadlines on a noisy machine."""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: two workers of two threads wait for each other

import matplotlib as mpl
import torch
from hypothesis import settings

mpl.use("Agg")
torch.set_num_threads(1)
settings.register_profile("stability", deadline=None, derandomize=True)
settings.load_profile("stability")
