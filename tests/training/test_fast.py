"""`fast=True` changes rounding alone, by a rule that looks at no clock; small batches are gathered exactly."""

import torch
from torch import nn

import luthier
from luthier.core.recipe import Recipe
from luthier.data.sources import TensorSource
from luthier.training.fast import fast_settings


def table(n: int = 200, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    return x, (x[:, 0] > 0).long()


def test_what_is_tuned_follows_from_the_network_the_data_and_the_optimizer() -> None:
    x, y = table()
    net = nn.Linear(8, 2)
    assert fast_settings(Recipe(optimizer="Adam"), net, (x, y)).optimizer_flavour == "fused"
    assert fast_settings(Recipe(optimizer="SGD", momentum=0.9), net, (x, y)).optimizer_flavour == "fused"
    assert fast_settings(Recipe(optimizer="SGD"), net, (x, y)).optimizer_flavour == "default"
    own = torch.optim.Adam(net.parameters())
    assert fast_settings(Recipe(), net, (x, y), optimizer=own).optimizer_flavour == "default"
    assert (
        fast_settings(Recipe(optimizer="Adam", optimizer_flavour="single"), net, (x, y)).optimizer_flavour == "single"
    )
    assert fast_settings(Recipe(optimizer="Adam"), net, (x, y)).eval_batch_size == 1024
    assert fast_settings(Recipe(optimizer="Adam", eval_batch_size=7), net, (x, y)).eval_batch_size == 7
    assert fast_settings(Recipe(optimizer="Adam"), nn.Conv2d(1, 2, 3), (x, y)).memory_format == "channels_last"
    images = torch.zeros(300, 1, 32, 32), torch.zeros(300, dtype=torch.long)
    assert fast_settings(Recipe(batch_size=8), nn.Conv2d(1, 2, 3), images).eval_batch_size == 64
    assert fast_settings(Recipe(), nn.Conv2d(1, 2, 3), (torch.zeros(9, 1, 128, 128), y[:9])).eval_batch_size == 32
    assert fast_settings(Recipe(batch_size=128), nn.Conv2d(1, 2, 3), images).eval_batch_size == 128
    assert fast_settings(Recipe(batch_size=8), net, images).eval_batch_size == 256
    assert fast_settings(Recipe(optimizer="Adam"), net, (x, y)).memory_format == "contiguous"


def test_a_tuned_run_is_the_plain_run_but_for_rounding_and_the_same_each_time() -> None:
    x, y = table()
    results = []
    for fast in (False, True, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        luthier.fit(
            net, (x, y), (x[:50] + 0.1, y[:50]), criterion="cross-entropy", optimizer="Adam", lr=1e-3, epochs=2,
            batch_size=16, seed=0, fast=fast, check=False,
        )  # fmt: skip
        results.append(torch.cat([p.detach().reshape(-1) for p in net.parameters()]))
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert torch.equal(results[1], results[2])


def test_batches_gathered_at_once_are_those_gathered_one_by_one() -> None:
    x, y = table(333)
    chunks = torch.randperm(333, generator=torch.Generator().manual_seed(1)).split(8)
    for source in (TensorSource((x, y.float()), y), TensorSource({"a": x}, y, weights=x[:, 0])):
        for batch, chunk in zip(source.batches(chunks, 0, 0), chunks, strict=True):
            one = source.batch(chunk)
            assert batch.indices is not None
            assert torch.equal(batch.indices, chunk)
            assert torch.equal(batch.targets, one.targets)
            values = [given.values() if isinstance(given, dict) else given for given in (batch.inputs, one.inputs)]
            assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
            assert (batch.weights is None) == (one.weights is None)


def test_a_loss_is_a_mean_over_targets_that_are_not_ignored() -> None:
    x, y = table()
    y = torch.where(torch.arange(200) % 5 == 0, -100, y)
    net = nn.Linear(8, 2)
    with torch.no_grad():
        wanted = float(nn.CrossEntropyLoss()(net(x), y))
    result = luthier.fit(
        net, (x, y), criterion="cross-entropy", optimizer="SGD", lr=0.0, epochs=1, seed=0, batch_size=16, check=False
    )
    assert abs(result.record.epochs[0]["train_loss"] - wanted) < 1e-5
    assert TensorSource((x,), y).lowest_target == -100


def fast(module: nn.Module, data: object, **recipe: object) -> Recipe:
    return fast_settings(Recipe(**recipe), module, data)  # type: ignore[arg-type]


def test_evaluation_batches_suit_the_cache() -> None:
    def rows(width: int, n: int = 3_000, net: nn.Module | None = None) -> int | None:
        return fast(net or nn.Linear(4, 2), (torch.zeros(n, width), torch.zeros(n))).eval_batch_size

    assert [rows(width) for width in (1, 256, 257, 512, 1024, 2**13, 2**13 + 1, 2**16)] == [
        1024, 1024, 512, 512, 256, 32, 32, 32,
    ]  # fmt: skip
    wide = fast(nn.Linear(4, 2), (torch.zeros(3, 2**19), torch.zeros(3)), batch_size=1)
    assert wide.eval_batch_size == 1  # at least a row
    images = torch.zeros(40, 1, 32, 32), torch.zeros(40)
    assert fast(nn.Conv2d(1, 1, 3), images, batch_size=1).eval_batch_size == 64
    many = torch.zeros(40, 4, 32, 32), torch.zeros(40)
    assert fast(nn.Conv2d(4, 1, 3), many, batch_size=1).eval_batch_size == 16
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*images))
    assert fast(nn.Conv2d(1, 1, 3), loader).eval_batch_size is None
    assert fast_settings(Recipe(), nn.Linear(4, 2), table(), loader).eval_batch_size is None


def test_only_updates_that_torch_fuses_are_fused() -> None:
    x, y = table()
    ids = torch.zeros(200, 1, dtype=torch.long), y
    assert fast(nn.Embedding(9, 2, sparse=True), ids, optimizer="Adam").optimizer_flavour == "default"
    assert fast(nn.Sequential(nn.Embedding(9, 2)), ids, optimizer="Adam").optimizer_flavour == "fused"
    nested = nn.Sequential(nn.Sequential(nn.Embedding(9, 2, sparse=True)), nn.Linear(2, 2))
    nested.register_module("sparse", nn.Embedding(9, 2))  # a module of that name says nothing of its gradients
    assert fast(nested, ids, optimizer="Adam").optimizer_flavour == "default"
    assert fast(nn.Linear(8, 2), (x, y), optimizer="RMSprop").optimizer_flavour == "default"
    assert (
        fast(nn.Linear(8, 2), (x, y), optimizer="Adam", optimizer_args={"foreach": True}).optimizer_flavour == "default"
    )


class Viewed(nn.Module):
    """What fails in channels_last: a view of a convolution's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert len(x) == 2  # two rows are enough to see it
        found: torch.Tensor = self.conv(x)
        return found.view(len(x), -1)


class Broken(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("of its own")


def test_channels_last_is_for_networks_that_run_so() -> None:
    images = torch.randn(30, 2, 8, 8), torch.zeros(30)
    assert fast(nn.Conv2d(2, 3, 3), images).memory_format == "channels_last"
    assert fast(Viewed(), images).memory_format == "contiguous"
    assert fast(Broken(2, 3, 3), images).memory_format == "channels_last"  # which the first step says
    volumes = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3))
    assert fast(volumes, images).memory_format == "contiguous"
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*images))
    assert fast(nn.Conv2d(2, 3, 3), loader).memory_format == "channels_last"
    assert fast(nn.Conv2d(2, 3, 3), (images[0][:1], images[1][:1])).memory_format == "channels_last"
