"""What `quick_loader` gives is what the loader gives, and what it draws is what the loader draws."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler, random_split

from luthier.data.tensor_loader import quick_loader


def tensors(n: int = 23) -> TensorDataset:
    wide = torch.randn(4, 3, n, generator=Generator().manual_seed(0)).permute(2, 0, 1)  # not contiguous
    return TensorDataset(wide, torch.arange(n), torch.rand(n, 2) > 0.5, torch.randn(n, 1).bfloat16())


LOADERS: dict[str, Any] = {
    "in order": lambda: DataLoader(tensors(), batch_size=5),
    "shuffled": lambda: DataLoader(tensors(), batch_size=5, shuffle=True),
    "without the last": lambda: DataLoader(tensors(), batch_size=5, shuffle=True, drop_last=True),
    "own generator": lambda: DataLoader(tensors(), 5, shuffle=True, generator=Generator().manual_seed(3)),
    "a split": lambda: DataLoader(random_split(tensors(), [15, 8])[0], batch_size=4, shuffle=True),
    "one tensor": lambda: DataLoader(TensorDataset(torch.randn(7)), batch_size=3),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_and_draws_are_those_of_the_loader(name: str) -> None:
    torch.manual_seed(0)
    plain, other = LOADERS[name](), None
    torch.manual_seed(0)
    other = quick_loader(LOADERS[name]())
    assert type(other.dataset).__name__ == "_Batches"
    states = []
    passes: list[list[Any]] = []
    for loader in (plain, other):
        torch.manual_seed(1)
        passes.append([batch for _ in range(2) for batch in loader])
        states.append((torch.get_rng_state(), loader.generator and loader.generator.get_state()))
    assert len(passes[0]) == len(passes[1])
    for one, two in zip(*passes, strict=True):
        assert type(one) is type(two)
        for x, y in zip(one, two, strict=True):
            assert torch.equal(x, y)
            assert x.dtype == y.dtype
            assert x.stride() == y.stride()
    assert torch.equal(states[0][0], states[1][0])
    if states[0][1] is not None:
        assert torch.equal(states[0][1], states[1][1])


class Own(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return tuple(tensor[index] * 2 for tensor in self.tensors)


class Listed(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(index)


OTHERS: dict[str, Any] = {
    "own samples": lambda: DataLoader(Own(torch.randn(8, 2)), 2),
    "own collate": lambda: DataLoader(tensors(), 5, collate_fn=lambda samples: samples),
    "workers": lambda: DataLoader(tensors(), 5, num_workers=1),
    "weights": lambda: DataLoader(tensors(), 5, sampler=WeightedRandomSampler([1.0] * 23, 23)),
    "no batches": lambda: DataLoader(tensors(), batch_size=None),
    "a dataset": lambda: DataLoader(Listed(), 2),
    "counted from the end": lambda: DataLoader(Subset(tensors(), [-1, 0, 1]), 2),
    "a gradient": lambda: DataLoader(TensorDataset(nn.Parameter(torch.randn(8, 2))), 2),
    "sparse": lambda: DataLoader(TensorDataset(torch.eye(8).to_sparse()), 2),
    "a sampler of another": lambda: DataLoader(tensors(), 5, sampler=torch.utils.data.RandomSampler(tensors(9))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_loaders_stay_as_they_are(name: str) -> None:
    loader = OTHERS[name]()
    assert quick_loader(loader) is loader
