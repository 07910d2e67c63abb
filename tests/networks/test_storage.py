"""Saved chains: the same bits back, and a clear word on every file that is not one."""

import errno
import json
import struct

import pytest
import torch

import stability as st
from stability.foundation import files
from stability.networks import storage


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3])
def test_a_saved_chain_comes_back_bit_for_bit(tmp_path, width, dtype):
    chain = st.Chain("plain_prelu", 5, seeds=[9, 4], width=width, init="he", root=3, dtype=dtype)
    back = st.Chain.load(chain.save(tmp_path / "chain.safetensors"))
    assert repr(back) == repr(chain)
    assert (back.members, back.architecture) == (chain.members, chain.architecture)
    for kind, value in chain.named_parameters():
        assert torch.equal(value, back.get_parameter(kind)), kind
    assert [p.name for p in tmp_path.iterdir()] == ["chain.safetensors"]


def test_a_chain_from_a_table_and_a_prefix_can_be_saved(tmp_path):
    chain = st.Chain.from_table(st.Chain("plain_prelu", 5, seeds=2).table()).prefix(3)
    back = st.Chain.load(chain.save(tmp_path / "chain.safetensors"))
    assert (back.table() == chain.table()).all()


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = st.Chain("plain_prelu", 5).save(tmp_path / "chain.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"not a whole safetensors file .* save the chain again"):
        st.Chain.load(path)


def rewrite(path, change):
    """Change the header of a safetensors file: 8 bytes of length, then JSON."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def change_description(header, **entries):
    description = json.loads(header["__metadata__"]["stability.Chain"])
    header["__metadata__"]["stability.Chain"] = json.dumps(description | entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop("__metadata__"), "no saved chain"),
        (lambda h: h["__metadata__"].update({"stability.Chain": "{"}), "damaged description"),
        (lambda h: change_description(h, version=99), "layout version 99"),
        (lambda h: change_description(h, architecture={"nam": "x"}), "damaged description"),
        (lambda h: change_description(h, members=[1, 2, 3]), "with 3 members needs"),
        (lambda h: change_description(h, members=[1, 1]), r"damaged description .*repeats"),
        (lambda h: h["bias"].update(dtype="I64"), "int64"),
        (lambda h: h["bias"].update(shape=[5, 1]), "needs"),
        (lambda h: h.update(bias2=h.pop("bias")), "needs"),
    ],
)
def test_a_file_that_does_not_hold_what_it_says_is_refused(tmp_path, change, message):
    path = st.Chain("plain_relu", 5).save(tmp_path / "chain.safetensors")
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        st.Chain.load(path)


def test_a_chain_is_loaded_to_the_device_asked_for(tmp_path, monkeypatch):
    path, asked = st.Chain("plain_relu", 2).save(tmp_path / "chain.safetensors"), []
    whole = storage.safe_open
    monkeypatch.setattr(
        storage, "safe_open", lambda *a, device, **k: asked.append(device) or whole(*a, device="cpu", **k)
    )
    st.Chain.load(path, device="cuda:1")
    st.Chain.load(path)
    assert asked == ["cuda:1", "cpu"]


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        st.Chain.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        st.Chain("plain_relu", 2).save(tmp_path / "nowhere" / "chain.safetensors")


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "chain.safetensors"
    old = st.Chain("plain_relu", 2)
    old.save(path)

    def full(_tensors, name, _metadata):
        name.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left on device; what was there before is unchanged"):
        st.Chain("plain_relu", 99).save(path)
    assert (st.Chain.load(path).table() == old.table()).all()
    assert [p.name for p in tmp_path.iterdir()] == ["chain.safetensors"]
