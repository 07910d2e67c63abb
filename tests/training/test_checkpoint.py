"""Runs that are broken off and go on: killed, interrupted, on a full disk, and with the wrong file."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import stability as st
from stability.foundation import files
from stability.training.checkpoint import VERSION
from stability.training.least_squares import LeastSquares
from tests.edited_files import edited

SINE = st.Task(torch.sin, (-3, 3), points=64)

PROGRAM = """
import sys, time, torch, stability as st
task = st.Task(torch.sin, (-3, 3), points=64)
chain = st.Chain("residual2_prelu", 12, seeds=5, init="knots", root=3)
slow = lambda iteration, losses: time.sleep(0.02)
st.train(chain, task, sys.argv[1], iterations={iterations}, checkpoint=sys.argv[2], every=0.05,
         on_iteration=slow, progress=False, **{options})
"""

CASES = {
    "adam": (300, {"homotopy": 0.5}),
    "levenberg_marquardt": (150, {"adam_iterations": 40}),
    "growth": (200, {"adam_iterations": 20, "homotopy": 0.3}),
}


@pytest.mark.parametrize("method", list(CASES))
def test_a_run_that_was_killed_goes_on_to_the_same_result_bit_for_bit(method, tmp_path):
    iterations, options = CASES[method]
    path = tmp_path / "run.safetensors"
    command = [sys.executable, "-c", PROGRAM.format(iterations=iterations, options=options), method, str(path)]
    process = subprocess.Popen(command)
    try:
        started = time.monotonic()
        rows = 0
        while rows < 30:  # in mid-run, after some iterations of the method
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() - started < 300
            time.sleep(0.02)
            if path.exists():
                with safe_open(path, "pt") as file:
                    rows = file.get_slice("record").get_shape()[0]
    finally:
        process.kill()
        process.wait()
    assert rows < iterations

    def chain():
        return st.Chain("residual2_prelu", 12, seeds=5, init="knots", root=3)

    broken, whole = chain(), chain()
    resumed = st.train(broken, SINE, method, iterations=iterations, resume=path, progress=False, **options)
    unbroken = st.train(whole, SINE, method, iterations=iterations, progress=False, **options)
    np.testing.assert_array_equal(broken.table(), whole.table())
    for name in ("loss", "best_iteration", "stopped_iteration", "converged_iteration"):
        assert torch.equal(getattr(resumed, name), getattr(unbroken, name)), name


def interrupted(method, path, at, **options):
    """Run until Ctrl-C at a step; return the chain and its history."""
    chain = st.Chain("residual2_prelu", 6, seeds=3, init="knots")

    def stop(step, _losses):
        if step == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(st.Interrupted, match=rf"interrupted at iteration {at} of .* resume=.* goes on") as caught:
        st.train(chain, SINE, method, iterations=90, checkpoint=path, on_iteration=stop, progress=False, **options)
    return chain, caught.value.history


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("method", list(CASES))
@pytest.mark.parametrize("fresh", [False, True])
def test_an_interrupted_run_goes_on_from_where_it_was(method, fresh, tmp_path):
    path = tmp_path / "run.safetensors"
    chain, history = interrupted(method, path, at=33)
    assert history.interrupted
    assert history.loss.shape == (34, 3)
    if fresh:
        chain = st.Chain("residual2_prelu", 6, seeds=3, init="knots")
    resumed = st.train(chain, SINE, method, iterations=90, resume=path, progress=False)
    whole = st.Chain("residual2_prelu", 6, seeds=3, init="knots")
    expected = st.train(whole, SINE, method, iterations=90, progress=False)
    np.testing.assert_array_equal(chain.table(), whole.table())
    assert torch.equal(resumed.loss, expected.loss)
    # A run that is over stays as it is.
    again = st.train(chain, SINE, method, iterations=90, resume=path, progress=False)
    assert torch.equal(again.loss, expected.loss)
    np.testing.assert_array_equal(chain.table(), whole.table())


def test_what_breaks_in_the_middle_of_a_step_is_not_kept(tmp_path, monkeypatch):
    """The last checkpoint stays, and the run goes on from there to the same result."""
    path, chain = tmp_path / "run.safetensors", st.Chain("residual2_prelu", 6, seeds=3, init="knots")
    advance, calls = LeastSquares.advance, []

    def break_off(self, step, *shares):
        calls.append(step)
        if len(calls) == 20:
            self.table += 1  # half a step
            raise KeyboardInterrupt
        advance(self, step, *shares)

    monkeypatch.setattr(LeastSquares, "advance", break_off)
    with pytest.raises(st.Interrupted):
        st.train(chain, SINE, "levenberg_marquardt", 40, checkpoint=path, every=1e-9, progress=False)
    monkeypatch.undo()
    whole = st.Chain("residual2_prelu", 6, seeds=3, init="knots")
    for one, resume in ((chain, path), (whole, None)):
        st.train(one, SINE, "levenberg_marquardt", 40, resume=resume, progress=False)
    np.testing.assert_array_equal(chain.table(), whole.table())


def test_the_signal_s_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    st.train(st.Chain("plain_relu", 2), SINE, iterations=2, progress=False)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.safetensors"
    st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, iterations=5, checkpoint=path, progress=False)
    return path


def with_frozen_slopes():
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    chain.slope.requires_grad_(False)
    return chain


@pytest.mark.parametrize(
    ("chain", "task", "options", "message"),
    [
        (st.Chain("residual2_prelu", 5, seeds=2), SINE, {}, "its depth is 4, here it is 5"),
        (st.Chain("residual2_prelu", 4, seeds=[0, 2]), SINE, {}, r"its members is \[0, 1\], here it is \[0, 2\]"),
        (st.Chain("residual2_prelu", 4, seeds=2, root=1), SINE, {}, "its root is 0, here it is 1"),
        (st.Chain("plain_prelu", 4, seeds=2), SINE, {}, "its architecture is"),
        (st.Chain("residual2_prelu", 4, seeds=2, dtype=torch.float32), SINE, {}, "its dtype is 'torch.float64'"),
        (st.Chain("residual2_prelu", 4, seeds=2), st.Task(torch.cos, (-3, 3), 64), {}, "its task is"),
        (st.Chain("residual2_prelu", 4, seeds=2), st.Task.from_samples(SINE.x + 1, SINE.y), {}, "its task is"),
        (with_frozen_slopes(), SINE, {}, r"its trained parameters is \['weight'"),
        (st.Chain("residual2_prelu", 4, seeds=2), SINE, {"iterations": 6}, "its iterations is '5', here it is '6'"),
        (st.Chain("residual2_prelu", 4, seeds=2), SINE, {"rate": 0.1}, "its rate is '0.01', here it is '0.1'"),
        (st.Chain("residual2_prelu", 4, seeds=2), SINE, {"method": "growth"}, "its method is 'adam'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(path, chain, task, options, message):
    before = chain.table()
    with pytest.raises(ValueError, match=f"is of another run: {message}"):
        st.train(chain, task, **({"iterations": 5} | options), resume=path, progress=False)
    np.testing.assert_array_equal(chain.table(), before)


def test_a_checkpoint_that_began_with_other_parameters_is_refused(path):
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    with torch.no_grad():
        chain.bias += 1
    with pytest.raises(ValueError, match="of a run that began with other parameters"):
        st.train(chain, SINE, iterations=5, resume=path, progress=False)


@pytest.mark.parametrize("damage", ["cut", "text", "other", "version"])
def test_a_file_that_is_no_checkpoint_is_refused(path, damage, tmp_path):
    bad = tmp_path / "bad.safetensors"
    if damage == "cut":
        bad.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        bad.write_text("no tensors here")
    elif damage == "other":
        st.Chain("plain_relu", 2).save(bad)
    else:
        tensors, metadata = files.read_tensors(path)
        metadata = {k: v.replace(f'"layout version": {VERSION}', '"layout version": 9') for k, v in metadata.items()}
        files.write_tensors(bad, tensors, metadata)
    message = "its layout version is 9" if damage == "version" else "is no whole checkpoint of st.train"
    with pytest.raises(ValueError, match=message):
        st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, iterations=5, resume=bad, progress=False)


def test_every_flipped_byte_and_every_cut_is_refused(path, tmp_path):
    bad, whole = tmp_path / "bad.safetensors", path.read_bytes()
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    random = np.random.default_rng(0)
    damaged = [whole[:place] for place in random.integers(0, len(whole), 50)]
    for place in random.integers(0, len(whole), 200):
        damaged.append(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"is no whole checkpoint of st\.train"):
            st.train(chain, SINE, iterations=5, resume=bad, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("best"), "its best is missing"),
        (lambda t: t.update(best=t["best"][:1]), "its best is torch.float64"),
        (lambda t: t.update(record=t["record"][:, :1]), "its record is torch.float64"),
        (lambda t: t.update(record=t["record"].repeat(9, 1)), "its record has .* iterations, and this run has 5"),
        (lambda t: t.update(stopped=t["stopped"].double()), "its stopped is torch.float64"),
        (lambda t: t.update(parameters=t["parameters"].float()), "its parameters is torch.float32"),
    ],
)
def test_a_checkpoint_of_other_shapes_is_refused(path, change, message, tmp_path):
    tensors, metadata = files.read_tensors(path)
    change(tensors)
    bad = files.write_tensors(tmp_path / "bad.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, iterations=5, resume=bad, progress=False)


def test_files_and_folders_that_are_not_there(tmp_path):
    chain = st.Chain("residual2_prelu", 4, seeds=2)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*nowhere"):
        st.train(chain, SINE, iterations=5, resume=tmp_path / "nowhere", progress=False)
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist; make it first"):
        st.train(chain, SINE, iterations=5, checkpoint=tmp_path / "nowhere" / "run", progress=False)
    for folder in (tmp_path, ""):
        with pytest.raises(IsADirectoryError, match="it is a folder; name a file"):
            st.train(chain, SINE, iterations=5, checkpoint=folder, progress=False)


def test_on_a_full_disk_the_run_goes_on_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    path, chain = tmp_path / "run.safetensors", st.Chain("residual2_prelu", 4, seeds=2)
    whole, write, calls = st.Chain("residual2_prelu", 4, seeds=2), Path.write_bytes, []

    def fill_up(self, content):
        calls.append(self)
        if len(calls) > 3:
            write(self, content[:10])
            raise OSError(28, "No space left on device")
        write(self, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.warns(RuntimeWarning, match="no checkpoint was written, the run goes on: .*No space left") as caught:
        history = st.train(chain, SINE, iterations=9, checkpoint=path, every=1e-9, progress=False)
    assert len(caught) == 1
    assert len(calls) == 11
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    resumed = st.train(whole, SINE, iterations=9, resume=path, progress=False)
    assert torch.equal(resumed.loss, history.loss)


@pytest.mark.parametrize("method", ["adam", "levenberg_marquardt", "growth"])
def test_every_edit_is_refused_by_name(method, tmp_path):
    path, bad = tmp_path / "run.safetensors", tmp_path / "bad.safetensors"
    options = {"method": method, "iterations": 3, "progress": False}
    st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, checkpoint=path, **options)
    done = 0
    for what, tensors, metadata in edited(path):
        files.write_tensors(bad, tensors, metadata)
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            print(what, st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, resume=bad, **options))
        done += 1
    assert done > 60


@pytest.mark.parametrize("name", ["best", "best_loss", "parameters", "record", "state.mean", "state.square"])
def test_a_checkpoint_of_what_is_no_number_is_refused(path, name, tmp_path):
    tensors, metadata = files.read_tensors(path)
    bad = files.write_tensors(tmp_path / "bad", tensors | {name: torch.full_like(tensors[name], torch.nan)}, metadata)
    with pytest.raises(ValueError, match=r"bad is no checkpoint of this run: its .* (no numbers|not finite)"):
        st.train(st.Chain("residual2_prelu", 4, seeds=2), SINE, iterations=5, resume=bad, progress=False)
