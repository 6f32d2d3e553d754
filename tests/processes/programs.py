"""What the worker processes train: networks of each kind that shards have to get right."""

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import luthier
from luthier.errors import LuthierError


class Drawing(Dataset[Any]):
    """Samples with noise that is drawn as they are read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i] + 0.1 * torch.randn(self.x.shape[1:]), self.y[i]


class Tagger(nn.Module):
    """One class a step of a series."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.read(x)[0])
        return outputs.transpose(1, 2)


class Noisy(nn.Module):
    """A layer with a generator of its own, and one that only some batches reach."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.rare = nn.Linear(6, 8), nn.Linear(8, 1), nn.Linear(8, 1)
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        if self.training:
            hidden = hidden + 0.1 * torch.randn(hidden.shape, generator=self.generator)
        outputs: Tensor = self.second(hidden)
        return outputs + self.rare(hidden) if float(x[0, 0]) > 0.8 else outputs


class Reader(nn.Module):
    """A small transformer over tokens, whose head has the weights of its embedding."""

    def __init__(self, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, width), nn.Linear(width, 11)
        self.place = nn.Parameter(0.1 * torch.randn(5, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True) for _ in range(layers)
        )
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens) + self.place
        for layer in self.layers:
            hidden = layer(hidden)
        outputs: Tensor = self.head(hidden)
        return outputs.transpose(1, 2)


def logged_step(module: nn.Module, batch: Any) -> Any:
    x, y = batch
    outputs = module(x)
    loss = ((outputs - y) ** 2).mean()
    return {"loss": loss, "outputs": outputs, "targets": y, "log": {"size": outputs.abs().mean()}}


def problem(name: str) -> dict[str, Any]:
    """Return the arguments of `fit` for a problem."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(83, 6, generator=g)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(83, 1, generator=g)
    torch.manual_seed(3)
    mlp = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
    plain: dict[str, Any] = {"batch_size": 20, "epochs": 3, "seed": 0, "optimizer": "Adam", "lr": 0.01}
    plain |= {"check": False, "verbose": False}
    data = {"train": (x[:63], y[:63]), "valid": (x[63:], y[63:])}
    if name == "mlp":
        return {"module": mlp, **data, "criterion": "mse", "metrics": ["rmse"], "ema": 0.9, "clip_norm": 1.0, **plain}
    if name == "convnet":
        images, classes = torch.randn(83, 3, 8, 8, generator=g), torch.randint(0, 3, (83,), generator=g)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 3)
        )
        parts = {"train": (images[:63], classes[:63]), "valid": (images[63:], classes[63:])}
        return {"module": net, **parts, "criterion": "cross-entropy", "metrics": ["accuracy", "f1"], **plain}
    if name == "transformer":
        tokens = torch.randint(0, 11, (83, 6), generator=g)
        parts = {"train": (tokens[:63, :5], tokens[:63, 1:]), "valid": (tokens[63:, :5], tokens[63:, 1:])}
        return {"module": Reader(), **parts, "criterion": "cross-entropy", "clip_norm": 0.5, **plain}
    if name == "lstm":
        series, tags = torch.randn(83, 7, 3, generator=g), torch.randint(0, 4, (83, 7), generator=g)
        tags[torch.rand(83, 7, generator=g) < 0.6] = -100
        tags[:9] = -100
        parts = {"train": (series[:63], tags[:63]), "valid": (series[63:], tags[63:])}
        weights = {"class_weights": (1.0, 2.0, 3.0, 0.5), "shuffle": False}
        return {"module": Tagger(), **parts, "criterion": "cross-entropy", **weights, **plain}
    if name == "drawing":
        return {"module": mlp, "train": Drawing(x[:63], y[:63]), "valid": data["valid"], "criterion": "mse", **plain}
    if name == "loader":
        loader = DataLoader(Drawing(x[:63], y[:63]), batch_size=20, shuffle=True)
        del plain["batch_size"]
        return {"module": mlp, "train": loader, "valid": data["valid"], "criterion": "mse", **plain}
    if name == "noisy":
        return {"module": Noisy(), **data, "criterion": "mse", "metrics": ["r2"], "micro_batch_size": 3, **plain}
    assert name == "step"
    return {"module": mlp, **data, "step": logged_step, "metrics": ["mae"], **plain}


def digest(module: nn.Module) -> str:
    sha256 = hashlib.sha256()
    for key, value in module.state_dict().items():
        sha256.update(key.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def figures(result: Any) -> list[Any]:
    """Return what a run left behind: its weights, and its record without times."""
    rows = [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in result.record.epochs]
    return [digest(result.module), rows]


def train(name: str, shards: int | None, folder: str | None = None, more: dict[str, Any] | None = None) -> Any:
    """Train a problem; return its figures, or the error."""
    torch.set_num_threads(1)
    try:
        result = luthier.fit(**{**problem(name), "shards": shards, "run": folder, **(more or {})})
    except LuthierError as error:
        return f"{error.code}: {error.message}"
    return [*figures(result), result.is_done]


class StopAt(luthier.Callback):
    """Stop after so many updates."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, run: Any) -> Any:
        return luthier.Stop("enough", finished=False) if run.global_step >= self.step else None


def train_until(name: str, shards: int, folder: str, step: int, more: dict[str, Any] | None = None) -> Any:
    return train(name, shards, folder, {"callbacks": [StopAt(step)], **(more or {})})


def spread_until(name: str, folder: str, step: int) -> Any:
    more = {"ema": None, "sharded": True, "checkpoint_every_steps": 2}
    return train_until(name, 4, folder, step, more)


def differing(name: str, field: str, rank: int) -> Any:
    """Train where one process is called otherwise."""
    import torch.distributed as dist

    from luthier.core.processes import find_group

    find_group()
    return train(name, 4, None, {field: {"lr": 0.5, "batch_size": 7}[field]} if dist.get_rank() == rank else None)


def contrastive(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a loss of each row beside all others of the batch."""
    near = outputs @ outputs.T / 0.1
    return nn.functional.cross_entropy(near, torch.arange(len(outputs)))


def summed(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).sum()


def noisy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs + 0.1 * torch.randn_like(outputs) - targets) ** 2).mean()


def checked(loss: str, more: dict[str, Any] | None = None) -> Any:
    """Train with a loss of this file, and with checks."""
    arguments = {**problem("mlp"), "criterion": globals()[loss], "epochs": 1, "metrics": ()}
    arguments["check"] = luthier.CheckSettings(select=("check-shards",))
    try:
        return figures(luthier.fit(**{**arguments, "shards": 4, **(more or {})}))
    except LuthierError as error:
        return f"{error.code}: {error.message}"


class Failing(nn.Module):
    """A network that fails in one process, at one update."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.inner, self.rank, self.calls = nn.Linear(6, 1), rank, 0

    def forward(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        self.calls += self.training
        if self.calls > 3 and dist.get_rank() == self.rank:
            raise ValueError("the cat sat on the cable")
        outputs: Tensor = self.inner(x)
        return outputs


def failing_spread(rank: int) -> Any:
    """Train spread weights where one process fails; return what each says, and whether its weights are NaN."""
    import time

    start, module = time.monotonic(), Failing(rank)
    try:
        luthier.fit(**{**problem("mlp"), "module": module, "ema": None, "shards": 4, "sharded": True})
    except Exception as error:
        is_nan = all(bool(p.isnan().all()) and p.shape for p in module.parameters())
        return [type(error).__name__, str(error), time.monotonic() - start, is_nan]
    return None


def failing(rank: int) -> Any:
    """Train where one process fails; return what each says, and after how many seconds."""
    start = time.monotonic()
    try:
        luthier.fit(**{**problem("mlp"), "module": Failing(rank), "ema": None, "shards": 4})
    except Exception as error:
        return [type(error).__name__, str(error), time.monotonic() - start]
    return None


class Keeping(nn.Module):
    """A network with a number that is no buffer, which moves in one process otherwise than in another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        outputs: Tensor = self.inner(x)
        if self.training and dist.get_rank() == 1:
            self.inner.bias.data.add_(0.1)
        return outputs


def drifting() -> Any:
    try:
        luthier.fit(**{**problem("mlp"), "module": Keeping(), "ema": None, "shards": 4})
    except LuthierError as error:
        return f"{error.code}: {error.message}"
    return None


def for_itself(seed: int) -> Any:
    return figures(luthier.fit(**{**problem("mlp"), "processes": False, "seed": seed}))


def file_digest(run: Path | str) -> str:
    return hashlib.sha256((Path(run) / "model.safetensors").read_bytes()).hexdigest()


def train_table(source: str, run: str) -> Any:
    """Train on a file; return the digest of the model that this process wrote, if it did."""
    import torch.distributed as dist

    from luthier.core.processes import find_group

    find_group()
    place = f"{run}-{dist.get_world_size()}"
    try:
        result = luthier.train(source, target="y", run=place, shards=3, epochs=2, threads=1, seed=0)
    except LuthierError as error:
        return error.message
    return None if result.folder is None else file_digest(result.folder)


class Counted(Drawing):
    """A dataset that counts what is read of it."""

    reads = 0

    def __getitem__(self, i: int) -> Any:
        self.reads += 1
        return super().__getitem__(i)


def counted_reads() -> int:
    arguments = problem("drawing")
    data = Counted(arguments["train"].x, arguments["train"].y)
    luthier.fit(**{**arguments, "train": data, "shards": 4})
    return data.reads


class Sleeping(Drawing):
    """Samples, one of which takes the last process seconds to read."""

    def __getitem__(self, i: int) -> Any:
        import torch.distributed as dist

        if i == 7 and dist.get_rank() == dist.get_world_size() - 1:
            time.sleep(3)
        return super().__getitem__(i)


class Keeping4k(Drawing):
    """Samples that are written to a folder as they are read, by process 1 alone."""

    def __init__(self, x: Tensor, y: Tensor, folder: str) -> None:
        super().__init__(x, y)
        self.folder = Path(folder)

    def __getitem__(self, i: int) -> Any:
        import torch.distributed as dist

        if dist.get_rank() == 1:
            (self.folder / str(i)).write_bytes(bytes(4096))
        return super().__getitem__(i)


def over(kind: str, folder: str | None = None, *more: Any) -> Any:
    """Train the problem `drawing` over samples of a class of this file; return the figures, or the error in words."""
    arguments = problem("drawing")
    data = globals()[kind](arguments["train"].x, arguments["train"].y, *more)
    try:
        return figures(
            luthier.fit(**{**arguments, "train": data, "shards": 4, "run": folder, "checkpoint_every_steps": 1})
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def spread_already(what: str) -> Any:
    """Train what spreads over processes by itself."""
    from torch.utils.data import DistributedSampler

    from luthier.core.processes import find_group

    find_group()
    arguments = problem("loader")
    if what == "module":
        arguments["module"] = nn.parallel.DistributedDataParallel(arguments["module"])
    else:
        data = arguments["train"].dataset
        arguments["train"] = DataLoader(data, batch_size=20, sampler=DistributedSampler(data))
    try:
        luthier.fit(**{**arguments, "shards": 4})
    except LuthierError as error:
        return f"{error.code}: {error.message}"
    return None


def twice(name: str) -> Any:
    """Fail in all processes, then train for longer than a look at the others takes."""
    answers = [train(name, 1)]

    class Slow(luthier.Callback):
        def on_epoch_end(self, run: Any) -> None:
            time.sleep(0.8)

    return [*answers, train(name, 8, None, {"callbacks": [Slow()]})]


def spread_again(name: str, again: bool) -> Any:
    """Train with weights that are spread, once or twice; return the figures, and whether the module is as before."""
    arguments = {**problem(name), "ema": None, "shards": 4, "sharded": True}
    module = arguments["module"]
    before = [(type(part), {*vars(part), "_compiled_call_impl"}) for part in module.modules()]
    ids = [id(parameter) for parameter in module.parameters()]
    for _ in range(1 + again):
        result = luthier.fit(**arguments)
    after = [(type(part), {*vars(part), "_compiled_call_impl"}) for part in module.modules()]
    hooks = [name for part in module.modules() for name, value in vars(part).items() if "_hooks" in name and value]
    same = ids == [id(parameter) for parameter in module.parameters()]
    return [figures(result), before == after, hooks, same]


def spread_optimizer(name: str, times: int, sharded: bool = True) -> Any:
    """Train several times with an optimizer that was passed in; return the weights and its state."""
    arguments = {**problem(name), "ema": None, "shards": 4, "sharded": sharded, "lr": None}
    module = arguments["module"]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(times):
        luthier.fit(**{**arguments, "optimizer": optimizer})
    sha256 = hashlib.sha256()
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            sha256.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return [digest(module), sha256.hexdigest(), len(optimizer.state)]


def live_bytes() -> int:
    """Return the bytes of all tensors that Python sees, each memory once."""
    import gc

    gc.collect()
    found = {}
    for item in gc.get_objects():
        if type(item) in (Tensor, nn.Parameter):
            storage = item.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


class Weighing(luthier.Callback):
    """Note how much memory tensors take after each update."""

    in_all_processes = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_step_end(self, run: Any) -> None:
        self.seen.append(live_bytes())


def weigh(sharded: bool, width: int, layers: int) -> list[int]:
    """Return the bytes of a transformer, and the most that tensors took beside what there was before it."""
    weighing, empty = Weighing(), live_bytes()
    arguments = {**problem("transformer"), "module": Reader(width, layers), "callbacks": [weighing], "epochs": 1}
    size = sum(p.numel() * p.element_size() for p in arguments["module"].parameters())
    luthier.fit(**{**arguments, "shards": 4, "sharded": sharded, "restore_best": False})
    return [size, max(weighing.seen) - empty]


def by_time(name: str, folder: str) -> Any:
    """Write checkpoints as often as time allows, in the background; return the figures and how many there were."""
    from luthier.store import checkpoint

    before, checkpoint.IN_BACKGROUND_BYTES = checkpoint.IN_BACKGROUND_BYTES, 0
    try:
        found = train(name, 4, folder, {"ema": None, "sharded": True, "checkpoint_every_s": 1e-6})
    finally:
        checkpoint.IN_BACKGROUND_BYTES = before
    return [found, checkpoint.last_number(Path(folder) / "checkpoints")]


class Dying(luthier.Callback):
    """Kill this process some time after an update."""

    in_all_processes = True

    def __init__(self, step: int, after_s: float) -> None:
        self.step, self.after_s = step, after_s

    def on_step_end(self, run: Any) -> None:
        import os
        import signal
        import threading

        if run.global_step == self.step and run.group.rank == 1:
            threading.Timer(self.after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def killed(name: str, folder: str, step: int, after_s: float) -> Any:
    more = {"ema": None, "sharded": True, "checkpoint_every_steps": 1, "callbacks": [Dying(step, after_s)]}
    return train(name, 4, folder, {**more, "epochs": 12})


class Shared(nn.Module):
    """Two blocks with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 1)
        self.layers[1].weight = self.layers[0].weight

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layers[1](self.layers[0](x)))
        return outputs


class SharedPart(nn.Module):
    """Two blocks with one layer."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))
        self.layers = nn.ModuleList([Wrapped(first), Wrapped(second), Wrapped(first)])
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        outputs: Tensor = self.head(x)
        return outputs


class Wrapped(nn.Module):
    """A block around a layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.inner(x)
        return outputs


class Siamese(nn.Module):
    """Blocks that are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 1, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(x * self.scale) - self.body(-x * self.scale))
        return outputs


class Scalar(nn.Module):
    """A parameter without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(6, 1), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.inner(x) * self.scale
        return outputs


class Convolving(nn.Module):
    """A kernel that channels_last lays out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.inner(x.view(-1, 3, 2, 1)).mean((1, 2))
        return outputs


class Sparse(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.embedding(x[:, 0].abs().long()))
        return outputs


def refused(kind: str | None, more: dict[str, Any]) -> Any:
    """Train what cannot be spread; return the error, and whether the module is as before."""
    arguments = {**problem("mlp"), "ema": None, "shards": 4, "sharded": True, **more}
    if kind == "lazy":
        arguments["module"] = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))
    elif kind is not None:
        arguments["module"] = globals()[kind]()
    elif arguments["optimizer"] == "other":
        arguments |= {
            "optimizer": torch.optim.SGD([*arguments["module"].parameters(), nn.Parameter(torch.ones(2))], 0.1)
        }
        arguments["lr"] = None
    before = None if kind == "lazy" else digest(arguments["module"])
    try:
        luthier.fit(**arguments)
    except LuthierError as error:
        return [f"{error.code}: {error.message}", before is None or digest(arguments["module"]) == before]
    return None
