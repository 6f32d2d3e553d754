"""How samples are read: in what order, with which random numbers, and whether reading changes them."""

import copy
import inspect
import math
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, SequentialSampler, default_collate

from luthier.checks.rows import Rows
from luthier.checks.rule import error, rule, warning
from luthier.checks.rules.data import targets_in_order
from luthier.checks.subject import Subject
from luthier.core.finding import Finding
from luthier.core.leaves import map_leaves
from luthier.core.rng import (
    GENERATORS,
    find_generators,
    generator_states,
    get_rng_state,
    kept_rng,
    put_generators_back,
    seed_probe,
)

_WORKER = {"get_worker_info", "_worker_info"}
_SHARING = {"datasets", "litdata", "streaming", "torchdata", "webdataset"}  # share out among workers by themselves


@rule("check-sampler", "data", hides="imbalance not-shuffled")
def sampler(s: Subject) -> Iterator[Finding]:
    """A loader that hands out no batch at all, or draws from the first few rows alone, or the frequent classes more."""
    loader = None if s.rows is None else s.rows.loader
    if s.rows is None or loader is None or loader.batch_sampler is None:
        return
    n, size = s.rows.n, loader.batch_size
    if loader.drop_last and size is not None and n < size:
        yield error(
            f"batches of {size} from {n} rows with drop_last=True: there is no batch, and nothing is trained",
            where="train",
            fix="a smaller batch_size, or drop_last=False",
            by="definition",
        )
    if not isinstance(loader.sampler, torch.utils.data.WeightedRandomSampler):
        return
    weights = torch.as_tensor(loader.sampler.weights, dtype=torch.float64)
    if len(weights) < n:
        yield error(
            f"the sampler has {len(weights)} weights for {n} rows: only the first {len(weights)} are ever drawn",
            where="train",
            fix="give one weight per row, not per class: weight_of_class[targets]",
            by="definition",
        )
    y = targets_in_order(s.rows)
    if y is None or y.is_floating_point() or len(y) != len(weights) or int(y.min()) < 0:
        return
    counts = torch.bincount(y).double()
    share = counts / counts.sum()
    drawn = torch.zeros_like(share).index_add_(0, y, weights) / weights.sum()
    most = int(share.argmax())
    if float(share[most]) > 0.6 and float(drawn[most]) > float(share[most]) + _MORE:
        yield warning(
            f"class {most} is {float(share[most]):.0%} of the rows and {float(drawn[most]):.0%} of what "
            "the sampler draws: the frequent class is weighted up",
            where="train",
            fix="weights that are small for frequent classes: 1 / count of the class",
        )


_MORE = 0.05  # of what is drawn, beyond the share of a class that is frequent already


@rule("check-not-shuffled", "data")
def not_shuffled(s: Subject) -> Iterator[Finding]:
    """The training loader goes through sorted classes in order: each batch is nearly of one class."""
    loader = None if s.rows is None else s.rows.loader
    batches_of = None if loader is None else loader.batch_sampler
    if s.rows is None or batches_of is None:
        return
    if type(batches_of) is not torch.utils.data.BatchSampler or not type(batches_of.sampler).__module__.startswith(
        "torch."
    ):
        yield from _own_batches(s.rows, batches_of)
        return
    if not isinstance(batches_of.sampler, SequentialSampler):
        return
    size, n = batches_of.batch_size, s.rows.n
    y = targets_in_order(s.rows)
    if y is None or len(y) < 40:
        return
    size = max(size, 8)
    batches = [y[i : i + size] for i in range(0, len(y) - size + 1, size)]
    if len(batches) < 2:
        return
    fix = "DataLoader(…, shuffle=True) for training"
    if not y.is_floating_point():
        whole = _entropy(y)
        shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))][: len(batches) * size].split(
            size
        )
        drawn = [part[torch.randperm(len(part))] for part in shuffled]
        mean, chance = (float(np.mean([_entropy(part) for part in parts])) for parts in (batches, drawn))
        if whole > 0.2 and mean < 0.5 * chance:
            yield warning(
                f"batches hold {math.exp(mean):.1f} classes on average where shuffled ones hold "
                f"{math.exp(chance):.1f}, and the loader does not shuffle ({n} rows in order)",
                where="train",
                fix=fix,
            )
        return
    steps = y.reshape(-1).double().diff()
    if bool((steps >= 0).all()) or bool((steps <= 0).all()):
        yield warning(
            f"the {len(y)} checked targets are sorted, and the loader does not shuffle", where="train", fix=fix
        )


def _own_batches(rows: Rows, sampler: Any) -> Iterator[Finding]:
    """Look at the batches that a sampler of the caller's own makes, drawn from a copy."""
    y = targets_in_order(rows)
    if y is None or y.is_floating_point() or len(y) < rows.n or len(y) < 40:
        return
    try:
        with kept_rng():
            seed_probe(0)
            batches = [torch.as_tensor(list(found)) for found in islice(iter(copy.deepcopy(sampler)), 40)]
    except Exception:
        return
    batches = [numbers for numbers in batches if numbers.ndim == 1 and len(numbers) >= 8]
    if len(batches) < 3 or any(int(numbers.max()) >= len(y) for numbers in batches):
        return
    mean = float(np.mean([_entropy(y[numbers]) for numbers in batches]))
    drawn = torch.randint(len(y), (len(batches), len(batches[0])), generator=torch.Generator().manual_seed(0))
    chance = float(np.mean([_entropy(y[numbers]) for numbers in drawn]))
    if math.exp(mean) < 1.5 and math.exp(chance) > 1.25 * math.exp(mean):
        yield warning(
            f"batches of the loader's own sampler hold {math.exp(mean):.1f} classes on average where drawn ones hold "
            f"{math.exp(chance):.1f}",
            where="train",
            fix="shuffle the samples, not only the batches",
        )


def _entropy(y: Tensor) -> float:
    share = torch.bincount(y - y.min()).double() / len(y)
    share = share[share > 0]
    return float(-(share * share.log()).sum())


@rule("check-valid-random", "data")
def valid_random(s: Subject) -> Iterator[Finding]:
    """Validation samples are another at each reading: augmented, or drawn."""
    rows = s.valid_rows
    if rows is None or rows.dataset is None:
        return
    numbers = rows.spread(8)
    try:
        first, second, again = (_collated(rows, numbers, seed) for seed in (0, 1, 0))
    except Exception:
        return
    if tree_differs(first, second) and not tree_differs(first, again):
        yield warning(
            "reading the same validation samples twice gives two results: the figure of each epoch is over other data",
            where="valid",
            fix="a dataset without random transforms for validation",
        )


def _collated(rows: Rows, numbers: list[int], seed: int) -> Any:
    """Return samples as the loader's collation makes a batch of them, drawn with a seed."""
    items = kept(rows.items(numbers, seed))
    if rows.collate is default_collate:
        return items
    with kept_rng():
        seed_probe(seed)
        return kept(rows.collate(items))


def tree_differs(a: Any, b: Any) -> bool:
    """Whether two samples, or lists of them, are not the same."""
    if any(isinstance(a, kind) and isinstance(b, kind) for kind in (Tensor, np.ndarray)):
        return a.shape != b.shape or not bool(((a == b) | (a != a)).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return any(tree_differs(a[key], b.get(key)) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) != len(b) or any(tree_differs(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float | str | bool | np.generic):
        return bool(a != b and a == a)
    return False


@rule("check-data-changed", "data", hides="valid-random repeated-draws duplicates")
def data_changed(s: Subject) -> Iterator[Finding]:
    """Reading a sample changes it: the same number gives another sample the next time, with the same random numbers."""
    for name, rows in (("train", s.rows), ("valid", s.valid_rows)):
        if rows is None or rows.dataset is None:
            continue
        try:
            first = kept(rows.items(rows.spread(4), 0))
            rows.items(rows.spread(4), 1)  # what this writes over stays
            second = rows.items(rows.spread(4), 0)
        except Exception:
            continue
        if tree_differs(first, second) and not find_generators(rows.read_from) and not _closed_over(rows.read_from):
            yield warning(
                f"reading sample {rows.spread(4)[0]} of {name} again gives another one: reading writes over what "
                "is stored",
                where=name,
                fix="copy before changing: x = self.x[i].clone(), and no operations in place",
            )


def _closed_over(dataset: Any) -> list[Any]:
    """Return the generators that functions of a dataset hold, as a closure or a global: these move at each reading."""
    found: list[Any] = []
    for value in list(vars(dataset).values()) if hasattr(dataset, "__dict__") else []:
        if inspect.isfunction(value):
            held = inspect.getclosurevars(value)
            found += [x for x in (*held.nonlocals.values(), *held.globals.values()) if isinstance(x, GENERATORS)]
    return found


def kept(value: Any) -> Any:
    """Return a copy of a sample's tensors and arrays."""
    return map_leaves(lambda x: x.clone() if isinstance(x, Tensor) else x.copy(), value, kind=(Tensor, np.ndarray))


@rule("check-repeated-samples", "data", several=True)
def repeated_samples(s: Subject) -> Iterator[Finding]:
    """An iterable dataset that each of several workers reads from its start: each sample comes once a worker."""
    for name, loader in s.loaders.items():
        if not isinstance(loader.dataset, IterableDataset) or loader.num_workers < 2:
            continue
        if loader.worker_init_fn is None and not _shares_samples(loader.dataset):
            yield warning(
                f"each of {loader.num_workers} workers reads the {type(loader.dataset).__name__} of {name} from its "
                f"start: every sample comes {loader.num_workers} times an epoch",
                where=type(loader.dataset).__name__,
                fix="share the samples out in __iter__ by torch.utils.data.get_worker_info(), or set num_workers=1",
            )


def _shares_samples(dataset: Any, depth: int = 3) -> bool:
    """Whether an iterable dataset asks which worker reads it: in its class, a function of it, or a dataset in it."""
    if type(dataset).__module__.partition(".")[0] in _SHARING:
        return True
    own = [cls for cls in type(dataset).__mro__ if not cls.__module__.startswith(("torch.utils.data", "builtins"))]
    functions = [value for cls in own for value in vars(cls).values() if inspect.isfunction(value)]
    near = [function.__globals__.get(name) for function in functions for name in _names_in(function.__code__)]
    functions += [value for value in near if inspect.isfunction(value)]
    if any(name in _WORKER for function in functions for name in _names_in(function.__code__)):
        return True
    inner = [value for value in vars(dataset).values() if isinstance(value, IterableDataset)]
    return depth > 0 and any(_shares_samples(value, depth - 1) for value in inner)


def _names_in(code: Any) -> set[str]:
    """Return the names that code and the functions within it use."""
    inner = (_names_in(part) for part in code.co_consts if hasattr(part, "co_names"))
    return set(code.co_names).union(*inner)


@rule("check-repeated-draws", "data")
def repeated_draws(s: Subject) -> Iterator[Finding]:
    """A dataset that seeds its random numbers at each reading, or whose own generator every worker copies."""
    rows = s.rows
    if rows is None or rows.dataset is None:
        return
    with kept_rng():
        ends = []
        for seed in (11, 12):
            seed_probe(seed)
            before = get_rng_state()
            try:
                rows.read_from[rows.spread(2)[0]]
            except Exception:
                return
            ends.append((before, get_rng_state()))
    for key, where in (("torch", "torch.manual_seed"), ("numpy", "np.random.seed"), ("python", "random.seed")):
        (before, after), (other, again) = ((start[key], end[key]) for start, end in ends)
        if not tree_differs(after, again) and tree_differs(after, before) and tree_differs(before, other):
            yield warning(
                f"reading a sample seeds the global generator ({where}): every sample and epoch gets the same "
                "random numbers",
                where="train",
                fix="seed once before training, never in __getitem__",
            )
    if _seeds_alike(rows):
        yield warning(
            "each read seeds the noise with the same fixed number, so all samples get the same noise",
            where="train",
            fix="make the generator once, in __init__ or the worker, and keep it",
        )
    for x in rows.table.inputs if rows.table else []:
        y = rows.table.targets if rows.table else None
        if y is None or x.shape != y.shape or not x.is_floating_point() or len(x) < 16:
            continue
        noise = (x - y).reshape(len(x), -1).double()  # (N, D)
        if float(noise.abs().mean()) > 1e-3 and float(noise.std(0).max()) < 1e-5 < float(noise.std(1).mean()):
            yield warning(
                f"inputs less targets are the same {noise.shape[1]} numbers in all {len(x)} checked rows: noise that "
                "was drawn once",
                where="train",
                fix="draw the noise in __getitem__",
            )
    own = find_generators(rows.read_from)
    workers = 0 if rows.loader is None else rows.loader.num_workers
    if own and workers > 1 and rows.loader is not None and rows.loader.worker_init_fn is None:
        states = generator_states(own)
        with kept_rng():
            rows.read_from[0]
            moved = [path for path, state in generator_states(own).items() if tree_differs(state, states[path])]
        put_generators_back(own, states)
        if moved:
            yield warning(
                f"each of the {workers} workers has a copy of the dataset's own generator, and draws the same numbers",
                where=moved[0],
                fix="seed it in worker_init_fn from torch.initial_seed(), or draw from torch's global generator",
            )


def _seeds_alike(rows: Rows) -> bool:
    """Whether reading two samples makes a generator with the same seed for each.

    A shallow copy of the dataset is read, whose functions see makers of generators that tell what they are asked for;
    nothing that others see is changed.
    """
    seeds: list[list[Any]] = []
    makers = {
        id(make): _hearing(make, seeds)
        for make in (np.random.default_rng, np.random.RandomState, random.Random, torch.Generator)
    }
    for part in (np.random, random, torch):
        makers[id(part)] = _Seen(part, makers)
    makers[id(np)] = _Seen(np, makers)
    numbers = rows.spread(3)
    try:
        heard = _with_makers(rows.read_from, makers, {})
        with kept_rng():
            for number in numbers:
                seeds.append([])
                heard[number]
    except Exception:
        return False
    given = [[seed for seed in found if "()" not in seed] for found in seeds]
    return len(numbers) > 1 and bool(given[0]) and all(found == given[0] for found in given)


def _hearing(make: Any, seeds: list[list[Any]]) -> Any:
    """Return a maker of generators that notes what it is called with."""
    if make is torch.Generator:

        class Generator(torch.Generator):
            def manual_seed(self, seed: int) -> Any:
                seeds[-1].append(("manual_seed", seed))
                return super().manual_seed(seed)

        return Generator

    def made(*args: Any, **kwargs: Any) -> Any:
        seeds[-1].append((make.__name__, repr(args), repr(kwargs)))
        return make(*args, **kwargs)

    return made


class _Seen:
    """A module as it is, but for the makers in it."""

    def __init__(self, inner: Any, makers: Mapping[int, Any]) -> None:
        self._inner, self._makers = inner, makers

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._makers.get(id(value), value)


_DEEP = 4  # subset > dataset > transform > function


def _with_makers(value: Any, makers: Mapping[int, Any], spaces: dict[int, dict[str, Any]], deep: int = _DEEP) -> Any:
    """Return a function, or a shallow copy of an object, whose code finds other makers of generators by their names."""
    if isinstance(value, FunctionType):
        space = spaces.get(id(value.__globals__))
        if space is None:
            space = spaces[id(value.__globals__)] = dict(value.__globals__)
            for name, item in value.__globals__.items():
                is_near = isinstance(item, FunctionType) and item.__globals__ is value.__globals__
                space[name] = _with_makers(item, makers, spaces) if is_near else makers.get(id(item), item)
        made = FunctionType(value.__code__, space, value.__name__, value.__defaults__, value.__closure__)
        made.__kwdefaults__ = value.__kwdefaults__
        return made
    cls = type(value)
    is_own = hasattr(value, "__dict__") and not isinstance(
        value, type | ModuleType | Tensor | np.ndarray | torch.nn.Module
    )
    if not deep or not is_own or cls.__module__ == "builtins":
        return value
    own = {
        name: _with_makers(item, makers, spaces)
        for base in reversed(cls.__mro__)
        for name, item in vars(base).items()
        if isinstance(item, FunctionType) and base.__module__.partition(".")[0] not in ("torch", "numpy", "typing")
    }
    copied = copy.copy(value)
    copied.__class__ = type(cls.__name__, (cls,), own)
    for name, item in vars(value).items():
        copied.__dict__[name] = _with_makers(item, makers, spaces, deep - 1)
    return copied
