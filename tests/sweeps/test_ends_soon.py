"""Ctrl-C in a block that is to end soon."""

import signal
import subprocess
import sys
import time

import pytest

import stability as st

PROGRAM = """
import hashlib, time
import stability as st

with st.ends_soon(lambda: "3 are kept", patience=0.5):
    print("inside", flush=True)
    {block}
print("behind", flush=True)
{after}
"""
LOOP = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 200_000_000)"  # sees no signal


def interrupted(block, after="", at="inside"):
    command = [sys.executable, "-c", PROGRAM.format(block=block, after=after)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.stdout.readline().strip() != at:
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - began, error


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("block", ["time.sleep(30)", LOOP], ids=["Python", "compiled"])
def test_it_ends_the_program_with_the_message(block):
    status, seconds, error = interrupted(block)
    assert (status, error) == (130, "3 are kept\n")
    assert seconds < 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_behind_the_block_ctrl_c_is_what_it_was():
    status, _, error = interrupted("pass", "time.sleep(30)", at="behind")
    assert status != 130
    assert "KeyboardInterrupt" in error
    assert "kept" not in error


def test_errors_of_the_block_pass_and_the_wakeup_of_signals_is_put_back():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with pytest.raises(ZeroDivisionError), st.ends_soon(str):
        1 / 0  # noqa: B018
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(TypeError, match="message is 'no function': expected a function"):
        st.ends_soon("no function")
    with pytest.raises(ValueError, match="patience"):
        st.ends_soon(str, patience=0)
