"""Large tensors that change little are written in the blocks that changed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.errors import RunError
from luthier.store.blocks import BLOCK_BYTES, Blocks
from luthier.store.checkpoint import CheckpointWriter, load_checkpoint


def states(size: int = 3 * BLOCK_BYTES) -> dict[str, object]:
    draw = torch.Generator().manual_seed(0)
    memory = torch.randint(0, 255, (size // 64 + 5, 64), dtype=torch.uint8, generator=draw)
    return {"parts": {"memory": memory, "counts": np.arange(300_000), "few": torch.arange(3)}, "step": 1}


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "blocks").iterdir()}


def save(writer: CheckpointWriter, tree: object, step: int) -> None:
    writer.save(tree, global_step=step, steady=["parts.memory", "parts.counts", "parts.few"])
    writer.join()


def test_only_blocks_that_changed_are_written(tmp_path: Path) -> None:
    writer, tree = CheckpointWriter(tmp_path), states()
    memory = tree["parts"]["memory"]  # type: ignore[index]
    save(writer, tree, 1)
    first = files(tmp_path)
    assert len(first) == 5  # four of the memory, one of the counts
    assert all(path.stat().st_size < 1 << 16 for path in tmp_path.glob("step-*"))
    memory[0] += 1
    save(writer, tree, 2)
    second = files(tmp_path)
    assert len(second.keys() - first.keys()) == 1
    assert {name: second[name] for name in first} == first
    found = load_checkpoint(tmp_path) or {}
    assert torch.equal(found["parts"]["memory"], memory)
    assert np.array_equal(found["parts"]["counts"], np.arange(300_000))


def test_blocks_that_no_checkpoint_refers_to_are_removed_also_those_of_an_earlier_life(tmp_path: Path) -> None:
    tree = states()
    memory = tree["parts"]["memory"]  # type: ignore[index]
    for life in range(3):
        writer = CheckpointWriter(tmp_path)
        for step in range(4):
            memory[0] += 1
            save(writer, tree, 10 * life + step)
    assert len(files(tmp_path)) == 6  # one differs between the two checkpoints that are kept


@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_damaged_block_leaves_the_checkpoint_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer, tree = CheckpointWriter(tmp_path), states()
    save(writer, tree, 1)
    first = files(tmp_path)
    tree["parts"]["memory"][0] += 1  # type: ignore[index]
    save(writer, tree, 2)
    (new,) = files(tmp_path).keys() - first.keys()
    path = tmp_path / "blocks" / new
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"" if damage == "short" else b"x"))
    assert torch.equal(load_checkpoint(tmp_path)["parts"]["memory"], states()["parts"]["memory"])  # type: ignore[index]
    assert "is damaged" in caplog.text


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "blocks").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Blocks(tmp_path / "blocks").put(torch.zeros(4))


def test_any_dtype_and_shape_comes_back(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path / "blocks")
    for tensor in (torch.zeros(0), torch.tensor(3.5), torch.randn(3, 4, dtype=torch.bfloat16).T, torch.tensor([True])):
        found = blocks.get(blocks.put(tensor))
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
