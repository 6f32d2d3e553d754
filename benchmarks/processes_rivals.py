"""The same work in two processes by other libraries, for `python -m benchmarks.processes beside`.

Each program trains `net` on a table of tensors, with batches of 128 over all processes. Where `stop` is given it stops
after so many updates and writes a checkpoint into `folder`; where there is one it goes on from it, as the library's
documentation has it. `by_hand` is the loop of an expert, without checkpoints.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

BATCH = 128


def by_hand(net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None) -> None:
    import torch.distributed as dist

    rank, size = dist.get_rank(), dist.get_world_size()
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for chunk in order.split(BATCH):
            own = chunk.chunk(size)[rank]
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(wrapped(x[own]), y[own]).backward()
            optimizer.step()


def by_fit(
    net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None, *, sharded: bool = False
) -> None:
    import luthier

    class StopAt(luthier.Callback):
        def on_step_end(self, run: Any) -> Any:
            return luthier.Stop("enough", finished=False) if run.global_step == stop else None

    luthier.fit(
        net, (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.05, batch_size=BATCH, epochs=epochs, seed=0,
        shards=2, run=folder / "run" if stop or folder.exists() else None, callbacks=[StopAt()] if stop else [],
        check=False, verbose=False, sharded=sharded,
    )  # fmt: skip


def by_fit_sharded(net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None) -> None:
    by_fit(net, x, y, epochs, folder, stop, sharded=True)


def by_fit_loader(net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None) -> None:
    import luthier

    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    luthier.fit(
        net, loader, criterion="cross-entropy", optimizer="SGD", lr=0.05, epochs=epochs, seed=0, shards=2, check=False,
        verbose=False,
    )  # fmt: skip


def by_lightning(net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.05)

    lightning.seed_everything(0, verbose=False)
    size = int(os.environ["WORLD_SIZE"])
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH // size, shuffle=True)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=size, strategy="ddp" if size > 1 else "auto", max_epochs=epochs,
        max_steps=stop or -1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    last = folder / "last.ckpt"
    trainer.fit(Module(), loader, ckpt_path=str(last) if last.exists() else None)
    if stop:
        trainer.save_checkpoint(last)


def by_accelerate(net: nn.Module, x: Tensor, y: Tensor, epochs: int, folder: Path, stop: int | None) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    set_seed(0)
    config = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, dataloader_config=config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    done, last = 0, folder / "last"
    if last.exists():
        accelerator.load_state(str(last))
        done = int((folder / "step").read_text())
    for epoch in range(done // len(loader), epochs):
        loader.set_epoch(epoch)
        skipped = done % len(loader)
        for inputs, targets in accelerator.skip_first_batches(loader, skipped) if skipped else loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(net(inputs), targets))
            optimizer.step()
            done += 1
            if done == stop:
                accelerator.save_state(str(last))
                (folder / "step").write_text(str(done))
                return


Program = Callable[[nn.Module, Tensor, Tensor, int, Path, int | None], None]
PROGRAMS: dict[str, Program] = {
    "DDP by hand": by_hand,
    "fit": by_fit,
    "fit, sharded": by_fit_sharded,
    "fit over a DataLoader": by_fit_loader,
    "Lightning": by_lightning,
    "Accelerate": by_accelerate,
}
PACKAGES = {"Lightning": "lightning", "Accelerate": "accelerate"}
