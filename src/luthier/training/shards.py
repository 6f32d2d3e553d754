"""An update over the shards of a batch: each computed as a batch of its own, added up alike by any number of processes.

A batch is cut into `shards` runs of rows. Each starts from generators seeded by (seed, update, shard) and from the
buffers as they were; its gradient is weighted by its count, and the sum divided by that of the counts.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from luthier.core.batch import Batch
from luthier.core.finding import Finding
from luthier.core.machine import machine
from luthier.core.processes import Group, Tree, combined, own_shards
from luthier.core.recipe import Recipe
from luthier.core.rng import kept_rng, seed_generators, seed_sample
from luthier.core.version import VERSION
from luthier.data.feeds import AddressedFeed
from luthier.errors import SettingError
from luthier.metrics.criteria import Measured
from luthier.metrics.evaluation import LogMeans, evaluating
from luthier.store.bundle import load_weights, module_weights
from luthier.training.callbacks import Stop
from luthier.training.state import Run

_OWN_DRAWS = 0x5DA9D5  # keeps what shards draw apart from what samples draw
_HEAD = 6  # numbers at the start of a tail


def with_shards(recipe: Recipe, group: Group | None) -> Recipe:
    """Return the recipe with its shards: as many as there are processes, where it says nothing.

    Raises:
        SettingError: there are more processes than shards, or a setting that shards do not have.
    """
    shards = recipe.shards or (1 if group is None else group.size)
    if group is not None and group.size > shards:
        raise SettingError(
            f"there are {group.size} processes and {shards} shards, and a process computes at least one",
            hint=f"start {shards} processes at most, or a new run with shards={group.size}",
            code="setting-processes",
        )
    if shards > 1 and recipe.accumulate > 1:
        raise SettingError(
            "accumulate cannot be combined with shards: a batch is computed in parts already",
            hint="leave accumulate out, and give the whole batch_size",
            code="setting-ignored",
        )
    return recipe if recipe.shards is not None or group is None else recipe.updated(shards=shards)


def refuse_spread(module: nn.Module, *data: Any) -> None:
    """Refuse a module and loaders that spread the work over processes themselves: it would be done twice.

    Raises:
        SettingError: a module wrapped by DistributedDataParallel, or a loader that reads a share of the samples.
    """
    if isinstance(module, nn.parallel.DistributedDataParallel):
        raise SettingError(
            "the module is wrapped by DistributedDataParallel, and fit adds up gradients itself",
            hint="pass the module that is inside: module.module",
            code="setting-processes",
        )
    for loader in data:
        samplers = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
        samplers.append(getattr(samplers[1], "sampler", None))
        if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
            raise SettingError(
                "the DataLoader reads a share of the samples (DistributedSampler), and fit deals out each batch itself",
                hint="leave the sampler out, and let batch_size be the update's",
                code="setting-processes",
            )


def make_alike(run: Run, group: Group) -> None:
    """Refuse processes that were called otherwise than process 0, and give all of them its weights.

    Raises:
        SettingError: settings, data or machines differ; which, and where.
    """
    mine = {**run.arguments, **machine(), "luthier": VERSION}
    first, *others = group.exchange(mine)
    for rank, other in enumerate(others, 1):
        for name in first:
            if first[name] != other.get(name):
                inner = first[name] if isinstance(first[name], dict) else {}
                part = next((key for key in inner if inner[key] != other[name].get(key)), None)
                was, now = (first[name], other[name]) if part is None else (inner[part], other[name].get(part))
                raise SettingError(
                    f"{name if part is None else f'{name}.{part}'} is {now} in process {rank}, and {was} in process 0",
                    hint="start every process with the same program, data, torch and number of threads; or pass "
                    "processes=False to train in each for itself",
                    code="setting-processes",
                )
    parts = [part for part in (run.module, run.criterion, run.average) if isinstance(part, nn.Module)]
    given = group.from_first([module_weights(part, copy=False) for part in parts])
    for part, weights in zip(parts, given, strict=True):
        load_weights(part, weights, where="process 0")


def own_rows(run: Run, count: int) -> tuple[int, int]:
    """Return the first row of a batch that this process computes, and the row after its last."""
    first, stop = _own(run)
    size = -(-count // run.shards)
    return min(first * size, count), min(stop * size, count)


def _own(run: Run) -> tuple[int, int]:
    return (0, run.shards) if run.group is None else own_shards(run.group.rank, run.group.size, run.shards)


def backward_shards(run: Run, batch: Batch) -> Measured:
    """Set the gradient of a batch, of which this process holds its own rows; return the loss of the whole.

    Raises:
        SettingError: a gradient is sparse, or shards log other figures than the first one did.
    """
    whole = len(batch) if batch.whole is None else batch.whole
    size = -(-whole // run.shards)
    used, (first, stop) = -(-whole // size), _own(run)
    state, parameters = run.state, [p for p in run.parameters if p.requires_grad]
    kinds = {p.dtype: [q for q in parameters if q.dtype == p.dtype] for p in parameters}
    buffers = [b for b in run.module.buffers() if b.dtype != torch.bool and not b.is_complex()]
    before = [buffer.clone() for buffer in buffers]
    # gradients of one type lie in one vector, whose length the processes can share evenly
    even = 1 if run.group is None else run.group.size
    lengths = {kind: -(-sum(p.numel() for p in some) // even) * even for kind, some in kinds.items()}
    spare = run.spare
    trees, tails, logged = {kind: Tree() for kind in kinds}, Tree(), state.logged
    for shard in range(first, min(stop, used)):
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        run.clear_gradients()
        seed_shard(run, shard)
        state.logged = LogMeans()
        part = batch.part((shard - first) * size, min((shard - first + 1) * size, len(batch)))
        head = _backward(run, part.copied())
        logs = {name: mean.mean for name, mean in state.logged.by_name.items()}
        if run.log_names is None:
            run.log_names = _agreed(run, logs)
        tail = torch.tensor(
            [
                *head,
                float(run.wish is not None),
                *(_logged(logs, name) * head[1] for name in run.log_names),
                *(float(p.grad is not None) for p in parameters),
                *(float(not torch.equal(b, v)) for b, v in zip(buffers, before, strict=True)),
            ],
            dtype=torch.float64,
        )
        values = [buffer.detach().double().reshape(-1).cpu() for buffer in buffers]
        filled = -(len(tail) + sum(map(len, values))) % even
        tails.add(shard, torch.cat([tail, *values, tail.new_zeros(filled)]))
        for kind, some in kinds.items():
            vector = spare[kind].pop() if spare.get(kind) else torch.zeros(lengths[kind], dtype=kind)
            torch.cat([flat_gradient(p) for p in some], out=vector[: sum(p.numel() for p in some)])
            trees[kind].add(shard, vector)
            spare.setdefault(kind, []).extend(trees[kind].free)
            trees[kind].free.clear()
    state.logged = logged
    seed_shard(run, -1)
    if run.log_names is None:
        run.log_names = _agreed(run, {})
    sizes = [len(run.log_names), len(parameters), len(buffers), sum(b.numel() for b in buffers)]
    length = _HEAD + sum(sizes)
    likes = [torch.empty(length + -length % even, dtype=torch.float64)]
    likes += [torch.empty(lengths[kind], dtype=kind) for kind in kinds]
    whole_tail, *vectors = _added(run, [tails, *trees.values()], likes, used)
    tail = whole_tail[:length]
    total, count, is_sum, is_weighted, _, wishes = tail[:_HEAD].tolist()
    over = 1.0 if is_sum or (is_weighted and not count) else count
    logged_sums, given, changed, buffer_sums = tail[_HEAD:].split(sizes)
    for (kind, some), vector in zip(kinds.items(), vectors, strict=True):
        count_of = [p.numel() for p in some]
        vector.div_(over)
        spare.setdefault(kind, []).extend(trees[kind].nodes.values())
        for parameter, piece in zip(some, vector[: sum(count_of)].split(count_of), strict=True):
            parameter.grad = piece.view_as(parameter).to(parameter.device)
    for parameter, number in zip(parameters, given.tolist(), strict=True):
        if not number:
            parameter.grad = None
    means = (buffer_sums / used).split([b.numel() for b in buffers])
    for buffer, value, mean, number in zip(buffers, before, means, changed.tolist(), strict=True):
        new = mean if buffer.is_floating_point() else mean.round()
        buffer.copy_(new.view_as(buffer).to(buffer.dtype) if number else value)
    loss = torch.tensor(total / over if over else float("nan"), dtype=torch.float64)
    measured = Measured(loss, count, bool(is_sum))
    if run.log_names:
        log = {name: value / count for name, value in zip(run.log_names, logged_sums.tolist(), strict=True)}
        state.logged.add(log, count)
    if wishes and run.group is not None:
        said = run.group.exchange(None if run.wish is None else [run.wish.reason, run.wish.finished])
        run.state.stop = Stop(*next(found for found in said if found is not None))
    return measured


def _backward(run: Run, part: Batch) -> list[float]:
    """Add a shard's gradient, weighted by its count; return the loss so weighted, the count, and what they are."""
    from luthier.training.step import forward, scaled  # which calls this

    total = count = 0.0
    is_sum = False
    size = run.recipe.micro_size
    for some in [part] if size is None else part.micro(size):
        measured = forward(run, some)
        number, is_sum = float(measured.count), measured.is_sum
        count += number
        if not number and not is_sum:
            continue  # every target is ignored, or weighs nothing: no mean, no gradient
        weighted = measured.loss if is_sum else measured.loss * measured.count
        run.backward(scaled(run, weighted))
        total += float(weighted.detach())
    return [total, count, float(is_sum), float(part.weights is not None), 0.0]


def flat_gradient(parameter: Tensor) -> Tensor:
    """Return a parameter's gradient as a vector on the CPU; zeros where it has none.

    Raises:
        SettingError: it is sparse.
    """
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros(parameter.numel(), dtype=parameter.dtype)
    if gradient.layout != torch.strided:
        raise SettingError(
            "a gradient is sparse, and shards are added up as whole vectors",
            hint="make the embedding with sparse=False, or leave shards and processes out",
            code="setting-processes",
        )
    return gradient.detach().reshape(-1).cpu()


def _added(run: Run, trees: list[Tree], likes: list[Tensor], used: int) -> list[Tensor]:
    if run.group is None:
        return [combined(tree.nodes, used) for tree in trees]
    return run.group.added([tree.nodes for tree in trees], likes, used, run.shards)


def _agreed(run: Run, logs: dict[str, float]) -> list[str]:
    """Return the names of what a step logs, which all processes have to know before they add up."""
    if run.group is None or run.objective.step is None:
        return sorted(logs)
    return sorted({name for found in run.group.exchange(sorted(logs)) for name in found})


def _logged(logs: dict[str, float], name: str) -> float:
    if name not in logs:
        raise SettingError(
            f"the step logged {name!r} for one shard and not for another",
            hint="log the same figures for every batch, or leave shards and processes out",
            code="setting-step",
        )
    return logs[name]


def seed_shard(run: Run, shard: int) -> None:
    """Seed the global generators, and those of the module's parts, for one shard of one update; -1 is after all."""
    seed, step = run.state.seed ^ _OWN_DRAWS, run.state.global_step
    seed_sample(seed, step, shard)
    if run.device.type == "cuda":
        torch.cuda.manual_seed_all(torch.initial_seed())
    seed_generators(run.own_generators, seed, step, shard)


def loss_over_shards(run: Run) -> Iterator[Finding]:
    """Compare the gradient of the first batch with that of its shards: what every sum over parts takes for granted.

    In eval mode, where nothing is drawn. A loss that looks across rows (as of pairs, or negatives in the batch), or
    that is no mean over its rows, has another gradient.
    """
    if not isinstance(run.train, AddressedFeed):
        return  # reading from a custom loader would move its generators
    now = [(p, p.grad) for p in run.parameters]
    with kept_rng(), evaluating(run.module), torch.enable_grad():
        batch = next(run.train.batches(0)).to(run.device)
        size = -(-len(batch) // run.shards)
        whole = _gradient(run, [batch], seed=0)
        again, parts = _gradient(run, [batch], seed=1), _gradient(run, batch.micro(size), seed=0)
    for parameter, gradient in now:
        parameter.grad = gradient
    if whole is None or again is None or parts is None:
        return
    length, noise = float(whole.norm()), float((whole - again).norm())
    off = float((whole - parts).norm())
    if off > max(_MOST_OFF * length, 1e-7, 10 * noise):
        yield Finding(
            code="check-shards",
            severity="error",
            what=f"the gradient of a batch is not the mean of those of its {run.shards} shards: it differs by "
            f"{off / max(length, 1e-30):.0%}",
            fix="the loss compares rows of a batch, or is not a mean over them: train with shards=1, or return "
            "(loss, count) from step=",
        )


_MOST_OFF = 1e-3  # of the gradient's length; rounding is a thousandth of that


def _gradient(run: Run, parts: list[Batch], *, seed: int) -> Tensor | None:
    """Return the gradient over some parts of a batch, each weighted by its count; None where it is not finite."""
    total = 0.0
    for parameter in run.parameters:
        parameter.grad = None
    for i, part in enumerate(parts):
        seed_sample(seed, 0, i)
        measured = run.objective(run.module, part).measured
        count = float(measured.count)
        if not count or not measured.loss.requires_grad:
            continue
        total += count
        (measured.loss if measured.is_sum else measured.loss * count).backward()
        over = 1.0 if measured.is_sum else total
    flat = [flat_gradient(p).double() for p in run.parameters if p.requires_grad]
    if not total or not flat:
        return None
    found = torch.cat(flat) / over
    return found if bool(found.isfinite().all()) else None


def spread(run: Run) -> Iterator[str]:
    """Yield what a user of shards should know of this module: what is of a shard where it was of a batch."""
    names = {type(part).__name__ for part in run.module.modules()}
    if any("BatchNorm" in name for name in names):
        yield f"BatchNorm's statistics are those of a shard's rows; running ones the mean over {run.shards} shards"
    if any("Dropout" in name for name in names):
        yield f"dropout draws separately for each of {run.shards} shards: another number of shards is another run"
