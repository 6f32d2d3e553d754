"""Kill processes that save checkpoints, and look at what each leaves: `python -m tests.faults.saves FOLDER KILLS`."""

import mmap
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import torch

from luthier.store.checkpoint import CheckpointWriter, load_checkpoint


def tree(step: int) -> dict[str, object]:
    """Return a state that says itself whether it is whole."""
    return {"step": step, "weights": torch.full((20_000,), float(step)), "names": [str(step)] * 50}


def live(folder: Path, shared: mmap.mmap) -> None:
    """Save one state after the other, and say which one is proven."""
    found = load_checkpoint(folder)
    step = 0 if found is None else found["step"]
    writer = CheckpointWriter(folder)
    while True:
        step += 1
        shared[:8] = struct.pack("<q", step)
        writer.save(tree(step), global_step=step)
        shared[8:] = struct.pack("<q", step)


def main() -> int:
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    lot, shared = random.Random(5), mmap.mmap(-1, 16)
    for i in range(number):
        child = os.fork()
        if child == 0:
            live(folder, shared)
        time.sleep(lot.uniform(0.001, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun, proven = struct.unpack("<qq", shared[:])
        found = load_checkpoint(folder)
        step = 0 if found is None else found["step"]
        assert proven <= step <= begun, (i, proven, step, begun)
        if found is not None:
            assert torch.equal(found["weights"], torch.full((20_000,), float(step)))
    print(f"{number} kills, {struct.unpack('<qq', shared[:])[1]} saves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
