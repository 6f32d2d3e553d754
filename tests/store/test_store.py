"""What is written is what is read: the codec, whole files, bundles."""

import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import luthier
from luthier.core.tree import flatten, unflatten
from luthier.errors import BundleError, RunError
from luthier.store.checkpoint import CheckpointWriter, load_checkpoint
from luthier.store.files import write_whole

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers())
    ),
    max_leaves=12,
)


@given(plain)
def test_the_codec_is_the_identity(tree: Any) -> None:
    import json

    document, tensors = flatten(tree)
    again = unflatten(json.loads(json.dumps(document)), tensors)
    assert again == tree
    assert type(again) is type(tree)


def test_the_codec_keeps_arrays_types_sharing_and_strides() -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    tree = {
        "nan": math.nan, "inf": -math.inf, "ordered": OrderedDict(b=1, a=2), "dtype": torch.bfloat16,
        "device": torch.device("cpu"), "size": torch.Size([2, 3]), "bytes": b"\x00\xff", "z": 1 + 2j,
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3), "scalar": np.float32(0.1),
        "one": weight, "two": weight, "half": torch.tensor(1.5, dtype=torch.bfloat16), "none": torch.zeros(0, 3),
    }  # fmt: skip
    again = unflatten(*flatten(tree))
    assert math.isnan(again["nan"])
    assert again["inf"] == -math.inf
    assert list(again["ordered"]) == ["b", "a"]
    for name in ("dtype", "device", "size", "bytes", "z", "scalar"):
        assert again[name] == tree[name], name
    np.testing.assert_array_equal(again["array"], np.arange(6, dtype=np.uint32).reshape(2, 3))
    assert again["one"] is again["two"]
    assert again["one"].stride() == weight.stride()
    assert torch.equal(again["one"], weight)
    assert again["half"].dtype == torch.bfloat16
    assert again["none"].shape == (0, 3)


@pytest.mark.parametrize("value", [print, object(), {"deep": [lambda: 1]}])
def test_what_is_no_data_is_refused_by_path(value: Any) -> None:
    with pytest.raises(RunError, match="run-state-not-data"):
        flatten({"here": value})


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_any_flipped_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    for step in (1, 2):
        CheckpointWriter(tmp_path).save({"step": step, "weight": torch.randn(20)}, global_step=step)
    newest = sorted(tmp_path.iterdir())[-1]
    whole = newest.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        newest.write_bytes(damaged)
        tree = load_checkpoint(tmp_path)
        assert tree is not None
        assert tree["step"] == 1, place
        assert not newest.exists()  # set aside, so that it does not count as the newest
        newest.with_suffix(".damaged").unlink()
    newest.write_bytes(whole)
    assert load_checkpoint(tmp_path)["step"] == 2  # type: ignore[index]


def test_an_own_module_comes_back_with_its_buffers_and_layout(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    net = make()
    net(torch.randn(8, 1, 9, 9))
    luthier.Model(net).save(tmp_path / "m.safetensors")
    again = luthier.load(tmp_path / "m.safetensors", module=make()).module
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_bundle_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    luthier.Model(nn.Linear(3, 2)).save(tmp_path / "m.safetensors")
    other = nn.Linear(4, 2)
    before = other.weight.detach().clone()
    with pytest.raises(BundleError, match=r"weight is \(2, 3\), and \(2, 4\)"):
        luthier.load(tmp_path / "m.safetensors", module=other)
    assert torch.equal(other.weight, before)


def test_a_newer_format_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.store.bundle.FORMAT", 99)
    luthier.Model(nn.Linear(3, 2)).save(tmp_path / "m.safetensors")
    monkeypatch.undo()
    with pytest.raises(BundleError, match="update luthier"):
        luthier.load(tmp_path / "m.safetensors", module=nn.Linear(3, 2))


def test_equal_bundles_have_equal_bytes(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    for name in ("one", "two"):
        luthier.Model(net, metrics={"valid": {"a": 1.0, "b": 2.0}}).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("cut", [4, 8, 9, 40, -1])
def test_a_damaged_bundle_whose_first_byte_is_that_of_a_pickle_is_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    for length in range(1, 400):  # a header's length, which comes first, is a multiple of 8: one in 32 begins with 0x80
        luthier.Model(nn.Sequential(OrderedDict([("x" * length, nn.Linear(1, 1))]))).save(path)
        if (saved := path.read_bytes())[0] == 0x80:
            break
    assert saved[0] == 0x80
    path.write_bytes(saved[:cut])
    with pytest.raises(BundleError) as caught:
        luthier.load(path, nn.Linear(1, 1))
    assert caught.value.code == "bundle-damaged"


def test_what_a_checkpoint_holds_is_read_into_aligned_memory(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save({f"part {i}": torch.arange(i + 1.0) for i in range(20)}, global_step=1)
    writer.join()
    tree = load_checkpoint(tmp_path)
    assert tree is not None
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tree.values())
