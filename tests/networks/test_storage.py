"""Saved chains: the same bits back, and a clear word on every file that is not one."""

import errno
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import stability as st
from stability.foundation import files
from tests.edited_files import edited


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
    with pytest.raises(ValueError, match=r"\(it is not a whole safetensors file: .* save the chain again"):
        st.Chain.load(path)


def rewrite(path, change):
    """Write the file anew with other content and a right checksum."""
    tensors, metadata = files.read_tensors(path)
    change(tensors, metadata)
    files.write_tensors(path, tensors, metadata)


def change_description(metadata, **entries):
    metadata["stability.Chain"] = json.dumps(json.loads(metadata["stability.Chain"]) | entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, m: m.clear(), "no saved chain"),
        (lambda _, m: m.update({"stability.Chain": "{"}), "damaged description"),
        (lambda _, m: m.update({"stability.Chain": "[]"}), "damaged description"),
        (lambda _, m: change_description(m, version=99), "layout version 99"),
        (lambda _, m: change_description(m, architecture={"nam": "x"}), "damaged description"),
        (lambda _, m: change_description(m, architecture=7), "damaged description"),
        (lambda _, m: change_description(m, init=3), "damaged description .*init is 3"),
        (lambda _, m: change_description(m, root="0"), "damaged description .*root '0'"),
        (lambda _, m: change_description(m, root=True), "damaged description .*root True"),
        (lambda _, m: change_description(m, more=1), "damaged description"),
        (lambda _, m: change_description(m, members=[1, 2, 3]), "with 3 members needs"),
        (lambda _, m: change_description(m, members=[1, 1]), r"damaged description .*repeats"),
        (lambda t, _: t.update(bias=t["bias"].long()), "int64"),
        (lambda t, _: t.update(bias=t["bias"].reshape(5, 1)), "needs"),
        (lambda t, _: t.update(bias2=t.pop("bias")), "needs"),
    ],
)
def test_a_file_that_does_not_hold_what_it_says_is_refused(tmp_path, change, message):
    path = st.Chain("plain_relu", 5).save(tmp_path / "chain.safetensors")
    rewrite(path, change)
    with pytest.raises(ValueError, match=message):
        st.Chain.load(path)


def test_every_flipped_bit_and_every_cut_is_refused(tmp_path):
    path = st.Chain("plain_prelu", 5, seeds=2).save(tmp_path / "chain.safetensors")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            st.Chain.load(path)
    for kept in range(0, len(whole), 7):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            st.Chain.load(path)
    path.write_bytes(whole)
    st.Chain.load(path)


def test_a_file_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"no saved chain \(it has no checksum of this program\)"):
        st.Chain.load(path)


def test_a_chain_is_loaded_to_the_device_asked_for(tmp_path):
    path = st.Chain("plain_relu", 2).save(tmp_path / "chain.safetensors")
    assert st.Chain.load(path, device="meta").device.type == "meta"
    assert st.Chain.load(path).device.type == "cpu"


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere"):
        st.Chain.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        st.Chain("plain_relu", 2).save(tmp_path / "nowhere" / "chain.safetensors")


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "chain.safetensors"
    old = st.Chain("plain_relu", 2)
    old.save(path)

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device; what was there before is unchanged"):
        st.Chain("plain_relu", 99).save(path)
    monkeypatch.undo()
    assert (st.Chain.load(path).table() == old.table()).all()
    assert [p.name for p in tmp_path.iterdir()] == ["chain.safetensors"]


def test_every_edit_is_refused_by_name(tmp_path):
    path, bad = st.Chain("residual2_prelu", 4, seeds=2).save(tmp_path / "chain"), tmp_path / "bad"
    done = 0
    for what, tensors, metadata in edited(path):
        files.write_tensors(bad, tensors, metadata)
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            print(what, st.Chain.load(bad))
        done += 1
    assert done > 60
