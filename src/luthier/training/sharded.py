"""A network larger than one device: weights, gradients and optimizer state spread over the processes, by torch's FSDP2.

`fully_shard` gathers the weights of a block while it is computed. How gradients are added up is not left to it, as its
sum depends on the number of processes: shards of a batch are dealt in strides, so that after each of them all processes
together hold the next leaves of the tree, of which each adds up its own slice.
"""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.batch import Batch
from luthier.core.processes import Group, Tree, combined
from luthier.core.recipe import Recipe
from luthier.errors import RunError, SettingError
from luthier.store.checkpoint import PartWriter, checkpoints, last_number, load_checkpoint, read_checkpoint
from luthier.training.callbacks import Checkpointing

_log = logging.getLogger("luthier")
# Of torch.optim: those whose update of a weight looks at no other weight, so that a slice is updated as the whole is.
_ELEMENTWISE = ["SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "Adagrad", "Adadelta", "ASGD"]


def refuse_alone(recipe: Recipe, group: Group | None) -> None:
    """Refuse `sharded` where there is nothing to spread over. One process that a launcher started alone is all right.

    Raises:
        SettingError: there is no process group.
    """
    if recipe.sharded and group is None and "WORLD_SIZE" not in os.environ:
        raise _refused(
            "sharded spreads the weights over several processes, and this one trains alone",
            "start several processes, with torchrun for example",
        )


@contextmanager
def hooked(module: nn.Module, *, is_wanted: bool) -> Iterator[None]:
    """Put hooks where `fully_shard` has its own: attention of torch takes another path in eval mode without any.

    So one process, which shards nothing, computes what several do.
    """
    parts = [*blocks(module), module] if is_wanted else []
    handles = [part.register_forward_pre_hook(lambda *_: None) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def refuse_sharding(module: nn.Module, optimizer: Optimizer, recipe: Recipe) -> None:
    """Refuse what cannot be spread over processes, before anything is changed.

    Raises:
        SettingError: a setting, an optimizer or a parameter; which, and why.
    """
    for what, hint in _obstacles(module, optimizer, recipe):
        raise _refused(what, hint)


def _obstacles(module: nn.Module, optimizer: Optimizer, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name, why in (
        ("ema", "the average would be a whole copy of the weights"),
        ("micro_batch_size", "a shard is what is computed at a time, so choose more shards"),
        ("compile", "torch.compile traces the whole network"),
    ):
        if getattr(recipe, name):
            yield f"{name} cannot be combined with sharded: {why}", f"leave {name} out"
    if recipe.precision == "fp16":
        yield "precision='fp16' cannot be combined with sharded", "use float32 or bf16"
    kind, named = type(optimizer), dict(module.named_parameters())
    if kind.__name__ not in _ELEMENTWISE or not kind.__module__.startswith("torch.optim."):
        what = f"{kind.__name__} cannot be combined with sharded: its update of a weight may depend on other weights"
        yield what, f"use one of torch.optim: {', '.join(_ELEMENTWISE)}"
    if any(group.get("fused") for group in optimizer.param_groups):
        what = "fused updates cannot be combined with sharded: they may round by a weight's place in its slice"
        yield what, "make the optimizer without fused"
    known = {id(parameter) for parameter in named.values()}
    if any(id(p) not in known for group in optimizer.param_groups for p in group["params"]):
        what = f"the optimizer has parameters that are not of {type(module).__name__}, which sharded does not add up"
        yield what, "make them part of the module"
    for name, parameter in named.items():
        if not parameter.ndim or not parameter.numel() or not parameter.is_contiguous():
            what = "a single number" if not parameter.ndim else "empty" if not parameter.numel() else "not contiguous"
            yield f"parameter {name} is {what}, and sharded cuts each by its first dimension", "reshape it"
    if len({parameter.dtype for parameter in named.values()}) > 1:
        yield "the parameters have several dtypes, and sharded sends them as one", "convert the module to one dtype"
    owners: dict[nn.Parameter, tuple[str, nn.Module | None]] = {}
    found = set(blocks(module))
    inside: dict[str, nn.Module] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        block = inside.get(path.rpartition(".")[0]) or (part if part in found else None)
        if block is not None:
            inside[path] = block
        if getattr(part, "sparse", False):
            yield f"{path} gives sparse gradients, which sharded cannot cut", "make it with sparse=False"
        for own, parameter in part.named_parameters(recurse=False):
            name = f"{path}.{own}".lstrip(".")
            first, other = owners.setdefault(parameter, (name, block))
            if other is not block:
                what = f"parameter {name} is also {first}, in another block: sharded gathers one block at a time"
                yield what, "give each block parameters of its own"
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        yield f"sharded needs a newer torch than {torch.__version__}", "update torch"


def _refused(what: str, hint: str) -> SettingError:
    return SettingError(what, hint=f"{hint}, or leave sharded out", code="setting-processes")


def blocks(module: nn.Module) -> list[nn.Module]:
    """Return the parts whose weights are gathered one after the other: the outermost of each class that repeats.

    >>> [type(block).__name__ for block in blocks(nn.Sequential(nn.LSTM(4, 4), nn.LSTM(4, 4), nn.ReLU()))]
    ['LSTM', 'LSTM']
    """
    counts = Counter(type(part) for part in module.modules())

    def outermost(part: nn.Module, kinds: Counter[type]) -> Iterator[nn.Module]:
        for child in part.children():
            is_container = isinstance(child, nn.Sequential) or type(child).forward is nn.Module.forward
            if kinds[type(child)] > 1 and not is_container and any(True for _ in child.parameters()):
                yield child
            else:
                yield from outermost(child, kinds)

    while True:
        found = list(dict.fromkeys(outermost(module, counts)))
        kinds = Counter(map(type, found))
        if all(count > 1 for count in kinds.values()):
            return found
        for kind, count in kinds.items():
            if count == 1:  # as a head of the class that layers inside of blocks have
                del counts[kind]


class Sharding:
    """The slices of a module's parameters that this process holds while it trains; the whole module before and after.

    Attributes:
        parameters: The slices, in the order of the module's parameters. The optimizer moves them.
        folder: The run's, where each process writes its part of a checkpoint; None for nowhere.
        is_mute: Whether what this process computes now counts for nothing: it computes to keep step with the others.
    """

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, group: Group, folder: Path | None, *, keeps: bool
    ) -> None:
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import FSDPModule, fully_shard
        from torch.distributed.tensor import DTensor

        self.module, self.optimizer, self.group, self.folder = module, optimizer, group, folder
        self.is_mute, self.is_undone, self._keeps = False, False, keeps
        self.step = self.used = 0
        self._calls: set[int] = set()
        self._given: set[int] = set()
        self._before = [_Before(part) for part in module.modules()]
        self._whole = dict(module.named_parameters())
        self.shapes = [parameter.shape for parameter in self._whole.values()]
        mesh = DeviceMesh.from_group(group.group, next(module.parameters()).device.type)
        for block in [*blocks(module), module]:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        names: dict[str, int] = {name: place for place, name in enumerate(self._whole)}
        parts: list[Any] = [part for part in module.modules() if isinstance(part, FSDPModule)]
        for part in parts:
            part.set_custom_all_gather(_Gather(group))
            part.set_custom_reduce_scatter(_Sum(self))
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            part.set_reduce_scatter_unused_params(True)
            part.unshard()
            for name, parameter in module.named_parameters():
                if not isinstance(parameter, DTensor) and parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._noting(names[name]))
            part.reshard()
        self._spread: list[Any] = list(module.parameters())
        with torch.no_grad():
            self.parameters = [nn.Parameter(p.to_local().detach(), p.requires_grad) for p in self._spread]
        for before in self._before:
            before.after()
        self._exchange_parameters(list(self._whole.values()), self.parameters, lambda value, place: self.own(value))
        for parameter in self._whole.values():
            parameter.data = parameter.data.new_empty(0)
        by_spread = dict(zip(map(id, self._spread), self.parameters, strict=True))
        self._named = {name: by_spread[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}

    def _noting(self, number: int) -> Any:
        return lambda parameter: self._given.add(number)

    def own(self, whole: Tensor) -> Tensor:
        """Return a copy of this process's slice of a tensor: rows, as `torch.chunk` cuts them."""
        rows = -(-len(whole) // self.group.size)
        return whole[self.group.rank * rows : (self.group.rank + 1) * rows].clone()

    def whole(self, own: Tensor, shape: torch.Size) -> Tensor:
        """Return the tensor of which all processes give their slices."""
        found = self.group.gathered(_bytes(self._padded(own, shape)))
        return found.view(own.dtype).view(-1, *shape[1:])[: shape[0]].clone().to(own.device)

    def _padded(self, own: Tensor, shape: torch.Size) -> Tensor:
        """Return a slice with as many rows as the first process has."""
        padded = torch.zeros(-(-shape[0] // self.group.size), *shape[1:], dtype=own.dtype)
        padded[: len(own)] = own.detach()
        return padded

    def _exchange_parameters(self, old: list[nn.Parameter], new: list[nn.Parameter], convert: Any) -> None:
        """Put parameters in the place of others in the optimizer, and convert the state that goes with them."""
        places = {id(parameter): i for i, parameter in enumerate(old)}
        for group in self.optimizer.param_groups:
            group["params"] = [new[places[id(parameter)]] for parameter in group["params"]]
        states = list(self.optimizer.state.items())
        self.optimizer.state.clear()
        for parameter, state in states:
            place = places[id(parameter)]
            self.optimizer.state[new[place]] = {
                name: convert(value, place) if isinstance(value, Tensor) and value.ndim else value
                for name, value in state.items()
            }

    def weights(self, *, copy: bool = True) -> dict[str, Any]:
        """Return what `module_weights` does, with the slices of parameters."""
        state = {**self.module.state_dict(), **self._named}
        buffers = {name: b for name, b in self.module.named_buffers(remove_duplicate=False) if name not in state}

        def copied(value: Any) -> Any:
            return value.detach().clone() if copy and isinstance(value, Tensor) else value

        return {
            "state": {name: copied(value) for name, value in state.items()},
            "buffers": {name: copied(value) for name, value in buffers.items()},
        }

    def put(self, weights: Mapping[str, Any]) -> None:
        """Put back what `weights` gave."""
        others = {name: value for name, value in weights["state"].items() if name not in self._named}
        if others:
            self.module.load_state_dict(others, strict=False)
        buffers = dict(self.module.named_buffers(remove_duplicate=False))
        with torch.no_grad():
            for name, value in weights["buffers"].items():
                buffers[name].copy_(value)
            for name, parameter in self._named.items():
                parameter.copy_(weights["state"][name])

    def rows(self, tree: Mapping[str, Any]) -> dict[str, int]:
        """Return which tensors of a snapshot are slices, by path, and how many rows the whole has."""
        shapes = dict(zip(map(id, self.parameters), self.shapes, strict=True))
        found = {f"module.state.{name}": shapes[id(p)][0] for name, p in self._named.items()}
        if tree["state"]["best_weights"] is not None:
            found |= {f"state.best_weights.state.{name}": shapes[id(p)][0] for name, p in self._named.items()}
        moved = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, state in tree["optimizer"]["state"].items():
            names = [name for name, value in state.items() if isinstance(value, Tensor) and value.ndim]
            found |= {f"optimizer.state.{number}.{name}": shapes[id(moved[number])][0] for name in names}
        return found

    def load(self) -> Any | None:
        """Return the newest whole checkpoint with this process's slices; all processes agree on which it is.

        Raises:
            RunError: as `load_checkpoint`.
        """
        if self.folder is None:
            return None
        folder, share = self.folder / "checkpoints", (self.group.rank, self.group.size)
        names = self.group.from_first([path.name for path in checkpoints(folder)] if not self.group.rank else None)

        def read(path: Path) -> Any:
            tree, problem = None, None
            try:
                tree = read_checkpoint(path, share)
                if path.is_file():  # by a run in one process
                    self._cut(tree)
            except (ValueError, OSError) as error:
                problem = str(error)
            problems = [said for said in self.group.exchange(problem) if said is not None]
            if problems:
                raise ValueError(problems[0])
            return tree

        return load_checkpoint(folder, [folder / name for name in names], read)

    def _cut(self, tree: dict[str, Any]) -> None:
        """Put this process's slices in the place of whole tensors in a snapshot."""
        for weights in (tree["module"], tree["state"]["best_weights"]):
            if weights is not None:
                weights["state"] |= {name: self.own(weights["state"][name]) for name in self._named}
        for state in tree["optimizer"]["state"].values():
            state |= {name: self.own(v) for name, v in state.items() if isinstance(v, Tensor) and v.ndim}

    def norm(self) -> Tensor | None:
        """Return the norm of the whole gradient as torch computes it, each parameter's by one process; None of none."""
        given = [(p.grad, shape) for p, shape in zip(self.parameters, self.shapes, strict=True) if p.grad is not None]
        size, rank, norms = self.group.size, self.group.rank, []
        for start in range(0, len(given), size):
            slices = [_bytes(self._padded(gradient, shape)) for gradient, shape in given[start : start + size]]
            sent = [len(some) for some in slices] + [0] * (size - len(slices))
            taken = self.group.swapped(torch.cat(slices), sent, [sent[rank]] * size)
            if rank < len(slices):
                gradient, shape = given[start + rank]
                whole = taken.view(gradient.dtype).view(-1, *shape[1:])[: shape[0]]
                norms.append(torch.linalg.vector_norm(whole, 2.0))
        if not given:
            return None
        by_process = self.group.exchange(norms)
        total: Tensor = torch.linalg.vector_norm(
            torch.stack([by_process[i % size][i // size] for i in range(len(given))]), 2.0
        )
        return total.to(given[0][0].device)

    def summing(self, parameters: list[nn.Parameter], used: int) -> "_Spread":
        """Return what adds up the shards of a batch, of which `used` hold samples."""
        self.used = used
        return _Spread(self, parameters)

    def undo(self) -> None:
        """Give the module its whole parameters back, and the optimizer too, where all processes are at this point."""
        for parameter, own, shape in zip(self._whole.values(), self.parameters, self.shapes, strict=True):
            parameter.data = self.whole(own, shape)
        if not self._keeps:
            self.optimizer.state.clear()
        self._leave(lambda value, place: self.whole(value, self.shapes[place]))

    def abandon(self) -> None:
        """Give the module whole parameters without their values, which the others may be gone with: they are NaN."""
        if not self.is_undone:
            for parameter, own, shape in zip(self._whole.values(), self.parameters, self.shapes, strict=True):
                parameter.data = own.new_full(shape, float("nan"))
            self.optimizer.state.clear()
            self._leave(None)

    def _leave(self, convert: Any) -> None:
        self.is_undone = True
        self._exchange_parameters(self.parameters, list(self._whole.values()), convert)
        for before in self._before:
            before.restore()


class _Before:
    """What a part of a module was like before `fully_shard`, to be so again."""

    def __init__(self, part: nn.Module) -> None:
        self.part, self.kind, self.names = part, type(part), set(vars(part))
        self.parameters = dict(part._parameters)
        self.hooks = {
            name: set(value) for name, value in vars(part).items() if name.startswith("_") and "_hooks" in name
        }
        self.added: set[str] = set()

    def after(self) -> None:
        """Look at what `fully_shard` has added."""
        self.added = set(vars(self.part)) - self.names

    def restore(self) -> None:
        """Take away what was added: parameters, hooks, class and marks."""
        from torch.distributed._composable_state import _module_state_mapping

        self.part.__class__ = self.kind
        for name in self.added:
            vars(self.part).pop(name, None)
        for name, known in self.hooks.items():
            hooks = vars(self.part)[name]
            for key in set(hooks) - known:
                del hooks[key]
        for name, parameter in self.parameters.items():
            if parameter is not None:
                setattr(self.part, name, parameter)
        _module_state_mapping.pop(self.part, None)


class _Spread:
    """The sums of shards' vectors where each process holds a slice of the gradients."""

    def __init__(self, sharding: Sharding, parameters: list[nn.Parameter]) -> None:
        self.sharding, self.tails = sharding, Tree()
        self.places = [next(i for i, q in enumerate(sharding.parameters) if q is p) for p in parameters]

    def parts(self, batch: Batch, size: int) -> Iterator[tuple[int, Batch]]:
        """Yield this process's shards of a whole batch; where it has none left, the first one to keep step with."""
        sharding, group = self.sharding, self.sharding.group
        for step in range(-(-sharding.used // group.size)):
            sharding.step, shard = step, step * group.size + group.rank
            sharding.is_mute = shard >= sharding.used
            sharding._given.clear()
            sharding._calls.clear()
            for parameter in sharding._spread:
                parameter.grad = None
            first = 0 if sharding.is_mute else shard * size
            yield shard, batch.part(first, min(first + size, len(batch)))

    def given(self) -> list[bool]:
        """Return which parameters have a gradient."""
        return [place in self.sharding._given for place in self.places]

    def add(self, shard: int, tail: Tensor) -> None:
        """Take in a vector beside the gradients, which are added up by now, from each process."""
        sharding, group = self.sharding, self.sharding.group
        for i, row in enumerate(group.gathered(tail).view(group.size, -1)):
            if (number := sharding.step * group.size + i) < sharding.used:
                self.tails.add(number, row.clone())

    def added(self, length: int) -> Tensor:
        """Return the sum of the vectors beside the gradients."""
        return combined(self.tails.nodes, self.sharding.used)[:length]

    def put(self, over: float) -> None:
        """Set the gradients, divided by the count."""
        with torch.no_grad():
            for spread, parameter in zip(self.sharding._spread, self.sharding.parameters, strict=True):
                parameter.grad = None if spread.grad is None else spread.grad.to_local().div_(over)
                spread.grad = None


class _Gather:
    """An all-gather for `fully_shard` by the processes' own group, which says whom it waits for in vain."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> None:
        if output_tensor.device.type == "cpu":
            self.group.gathered(_bytes(input_tensor), _bytes(output_tensor))
        else:
            found = self.group.gathered(_bytes(input_tensor))
            output_tensor.copy_(found.view(output_tensor.dtype))


class _Sum(_Gather):
    """A reduce-scatter for `fully_shard` that adds up shards along their tree, and gives the sum after the last."""

    def __init__(self, sharding: Sharding) -> None:
        super().__init__(sharding.group)
        self.sharding, self.tree = sharding, Tree()

    def __call__(  # type: ignore[override]
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        sharding, size = self.sharding, self.group.size
        if id(self) in sharding._calls:
            raise _refused(
                "a block is used twice in a forward pass, and sharded adds up its gradient after each use",
                "use each block once",
            )
        sharding._calls.add(id(self))
        if sharding.is_mute:
            input_tensor.zero_()
        if sharding.step == 0:
            self.tree = Tree()
        taken = self.group.swapped(_bytes(input_tensor)).view(input_tensor.dtype)
        for i, row in enumerate(taken.view(size, -1)):
            if (shard := sharding.step * size + i) < sharding.used:
                self.tree.add(shard, row)
        self.tree.free.clear()
        nodes = self.tree.nodes
        if (sharding.step + 1) * size >= sharding.used:
            output_tensor.copy_(combined(nodes, sharding.used))
            nodes.clear()
            return
        for name, node in nodes.items():  # a view of all that was taken would keep it
            if node.untyped_storage().data_ptr() == taken.untyped_storage().data_ptr():
                nodes[name] = node.clone()


class CheckpointingTogether(Checkpointing):
    """Write checkpoints of which each process writes its part. When one is due by time is process 0's clock."""

    in_all_processes = True
    writer: PartWriter | None = None
    outer: BaseException | None = None
    number = 0

    def on_start(self, run: Any) -> None:
        """Write the state that the run starts from."""
        if run.sharding.folder is None:
            return
        self.outer = sys.exc_info()[1]  # of a caller that trains while it handles an error
        group, folder = run.group, run.sharding.folder / "checkpoints"
        self.writer = PartWriter(folder, group.rank, group.size)
        self.number = self.writer.number = int(group.from_first(last_number(folder)))
        self._save(run)

    def on_step_end(self, run: Any) -> None:
        """Write where it is due: after each so-many steps, or after the update with which process 0 told it."""
        if self.writer is None:
            return
        if run.saves or (self.every_steps is not None and run.global_step % self.every_steps == 0):
            self._try(run)
        is_due = self.every_s is not None and not 0 <= time.monotonic() - self.last < self.every_s
        run.asks_to_save = is_due and not self.writer.is_busy and run.group.rank == 0

    def on_end(self, run: Any) -> None:
        """Write the state that the run ends in; where it ends in an error, the others may be elsewhere or gone."""
        if self.writer is None:
            return
        if sys.exc_info()[1] is self.outer:
            self._try(run, save=run.is_whole, wait=True)
        else:
            with suppress(RunError):
                self.writer.join()

    def _try(self, run: Any, *, save: bool = True, wait: bool = False) -> None:
        super()._try(run, save=save)
        if wait:
            try:
                self._finish(run)
            except RunError as error:
                if self.stop_on_error:
                    raise
                _log.error("NO CHECKPOINT was written at step %s: %s", run.global_step, error)

    def _save(self, run: Any) -> None:
        self._finish(run)
        assert self.writer is not None
        tree, self.number = run.snapshot(), self.number + 1
        self.writer.save_part(tree, run.sharding.rows(tree), global_step=run.global_step, number=self.number)
        self.last = time.monotonic()

    def _finish(self, run: Any) -> None:
        """Wait until all processes have written what is under way, and remove what is older.

        Raises:
            RunError: one of them could not.
        """
        assert self.writer is not None
        problem = None
        try:
            self.writer.join()
        except RunError as error:
            problem = error.message
        problems = [said for said in run.group.exchange(problem) if said is not None]
        if problems:
            raise RunError(problems[0], hint="free disk space, or choose another place", code="run-cannot-write")
        if run.group.rank == 0:
            self.writer.tidy()


def _bytes(value: Tensor) -> Tensor:
    return value.detach().cpu().view(-1).view(torch.uint8)


def shared_folder(folder: Path | None, group: Group) -> Path | None:
    """Return the folder that process 0 made, for all to write into; None where there is none.

    Raises:
        RunError: a process does not see it.
    """
    place = group.from_first(None if folder is None else str(folder.resolve()))
    seen = group.exchange(place is None or Path(place).is_dir())
    if not all(seen):
        raise RunError(
            f"process {seen.index(False)} does not see the folder {place}, where each writes its part of a checkpoint",
            hint="choose a folder that all machines share",
            code="run-not-shared",
        )
    return None if place is None else Path(place)
