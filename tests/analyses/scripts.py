"""The scripts of analyses/, and how a test runs one: as a script, in this process, where everything is loaded."""

import contextlib
import io
import os
import runpy
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
#: Those that draw a figure; the others are read by them.
SCRIPTS = sorted(path.stem for path in (ROOT / "figures").glob("*.nc"))


@dataclass
class Done:
    """How a script ended, as `subprocess.run` says it."""

    returncode: int
    stdout: str
    stderr: str


def run(name, *arguments, folder="analyses"):
    """Run a script as Python would, and put back what it changes of the process."""
    script = ROOT / folder / f"{name}.py"
    arguments_before, path_before, modules_before = sys.argv, sys.path[:], set(sys.modules)
    environment, threads = dict(os.environ), torch.get_num_threads()
    said, complained, code = io.StringIO(), io.StringIO(), 0
    sys.argv = [str(script), *map(str, arguments)]
    sys.path.insert(0, str(script.parent))
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complained),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("default")
            warnings.showwarning = lambda message, category, *_: complained.write(f"{category.__name__}: {message}\n")
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except Exception:
        code = 1
        complained.write(traceback.format_exc())
    finally:
        sys.argv, sys.path[:] = arguments_before, path_before
        for module in set(sys.modules) - modules_before:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(str(script.parent)):
                del sys.modules[module]
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
    return Done(code, said.getvalue(), complained.getvalue())
