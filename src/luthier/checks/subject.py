"""What is looked at: copies of the module, a few rows by number, and what they give. The caller's own are not run."""

import copy
import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader

from luthier.checks.reached import Memo, Reach, copy_module, rebound, untouched
from luthier.checks.rows import Rows, Table
from luthier.checks.sampled import SIZES, batch_axis, copy_inputs, cut_given, take
from luthier.checks.tracing import Call, Trace
from luthier.core.batch import Batch
from luthier.core.leaves import leaves, map_leaves
from luthier.core.machine import short_of_memory
from luthier.core.rng import kept_rng, seed_probe
from luthier.core.stepping import updater
from luthier.metrics.objective import Objective
from luthier.metrics.outputs import OutputKey, answer_or_all, is_torch_loss
from luthier.store.bundle import without_wrapper

_log = logging.getLogger("luthier")
_CALLS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)  # of a schedule's function
_MOST_NUMBERS = 800_000  # in the sample rows: 5 images of 3 x 224 x 224, so that large networks wait for seconds
_LARGE = 1 << 18  # numbers of a parameter that copies share where they only read it
_TIMES = 9  # the size of a network that its copies, their gradients and Adam's state take at most
_MOST_MADE, _ENOUGH_ROWS = 2_000_000, 17  # of all layers together, which a trace keeps; fewer rows than these say less
_HUGE, _FEWEST_ROWS = 20_000_000, 7  # made of 17 rows: then fewer have to do, or they would wait and take gigabytes
BATCH_NORM, CONV = nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd
WEIGHTED = (nn.Linear, CONV, nn.RNNBase, nn.Bilinear, nn.RNNCellBase, nn.MultiheadAttention)
NORMS = (BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
LOSSES = {
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss",
    "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "hinge_embedding_loss",
    "multilabel_margin_loss", "soft_margin_loss", "multilabel_soft_margin_loss", "cosine_embedding_loss",
    "multi_margin_loss", "margin_ranking_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss", "ctc_loss",
}  # fmt: skip
ELEMENTWISE = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
BINARY = {"binary_cross_entropy", "binary_cross_entropy_with_logits"}


@dataclass
class Passed:
    """One forward pass of a copy over the sample rows, with the loss.

    Attributes:
        module: The copy, with gradients after `backward`.
        trace: The calls that were made.
        outputs: What the module gave; of a custom step, what its (first) call gave.
        loss: The loss, or None where there is no criterion.
        batch: The rows.
    """

    module: nn.Module
    trace: Trace
    outputs: Any
    loss: Tensor | None
    batch: Batch

    @property
    def loss_calls(self) -> list[Call]:
        """Calls of torch's losses."""
        return [call for call in self.trace.calls if call.name in LOSSES and isinstance(call.output, Tensor)]


def _turned(x: Tensor) -> Tensor:
    return x.roll(1, 0) if x.dtype == torch.bool else x.flip(0).roll(1, 0).add(1) if x.ndim else x + 1


def schedulers_of(optimizer: Optimizer) -> list[Any]:
    """Return the schedulers that hold an optimizer."""
    found = []
    for owner in gc.get_referrers(optimizer):
        if isinstance(owner, LRScheduler):
            found.append(owner)
        elif isinstance(owner, dict) and owner.get("optimizer") is optimizer:
            found += [item for item in gc.get_referrers(owner) if isinstance(item, LRScheduler)]
    return list({id(item): item for item in found}.values())


@contextmanager
def _without_fast_path() -> Iterator[None]:
    switch = getattr(torch.backends, "mha", None)
    if switch is None or not switch.get_fastpath_enabled():
        yield
        return
    switch.set_fastpath_enabled(False)
    try:
        yield
    finally:
        switch.set_fastpath_enabled(True)


def _shared(module: nn.Module) -> Memo:
    """Return large parameters as a copy has them that shares their numbers."""
    return {
        id(p): nn.Parameter(p.detach(), p.requires_grad)
        for p in module.parameters()
        if type(p) is nn.Parameter and p.numel() >= _LARGE
    }


def _have_equal_large(a: nn.Module, b: nn.Module) -> bool:
    """Whether two copies have the same numbers in their large parameters; False where that cannot be told."""
    try:
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return all(torch.equal(p, q) for p, q in pairs if p.numel() >= _LARGE)
    except (ValueError, RuntimeError):  # what forward has made, lazily or anew
        return False


@contextmanager
def _kept_parametrizations(module: nn.Module) -> Iterator[None]:
    """Put back what a look at a parametrized weight moves: under spectral norm it is a step of power iteration."""
    lists = [part for part in module.modules() if isinstance(part, parametrize.ParametrizationList)]
    kept = [(buffer, buffer.clone()) for part in lists for buffer in part.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


class Subject:
    """A module, its data, criterion and optimizers, and what probes on copies found; each probe is done once.

    Everything random inside is seeded and put back by `guarded`, which the rules are run in.
    """

    def __init__(
        self,
        module: nn.Module,
        train: Any = None,
        valid: Any = None,
        *,
        criterion: Any = None,
        optimizer: Any = None,
        step: Callable[..., Any] | None = None,
        metrics: Sequence[Any] = (),
        evaluate: Callable[..., Any] | None = None,
        target_key: str | None = None,
        output_key: OutputKey | None = None,
        batch: Batch | None = None,
    ) -> None:
        module = without_wrapper(module)  # what torch.compile wraps is looked at as it was written
        self.module, self.step, self.metrics, self.evaluate = module, step, metrics, evaluate
        self.criterion = copy.deepcopy(criterion) if isinstance(criterion, nn.Module) else criterion
        found = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        self.optimizers: list[Optimizer] = [item for item in found if isinstance(item, Optimizer)]
        self.target_key, self.output_key = target_key, output_key
        self.objective = Objective(self.criterion, step, output_key)
        self.notes: list[str] = []
        self.loaders = {
            name: data for name, data in (("train", train), ("valid", valid)) if isinstance(data, DataLoader)
        }
        self.rows = self._rows(train, "train")
        self.valid_rows = self._rows(valid, "valid")
        self.given = batch
        self.has_own_pass = False
        self._stepped: dict[Any, Stepped] = {}
        self.kept: dict[str, Any] = {}  # what rules found together, by name
        self._only_reads = False  # known once the module ran: its forward writes into no large parameter
        self.template: nn.Module | None = None
        self._step_of: MutableMapping[nn.Module, Any] = WeakKeyDictionary()  # of each copy, as it would reach that
        try:
            if short := short_of_memory(module, _TIMES):
                self.notes.append(f"{short}: nothing is tried on copies of it")
            else:
                with kept_rng():  # a custom `__deepcopy__` may draw
                    memo: Memo = {}
                    self.template = copy_module(module, memo)
                    self._step_of[self.template] = rebound(step, memo)
        except Exception as error:
            self.notes.append(f"{type(module).__name__} cannot be copied, so nothing is tried on it: {error}")
        if self.template is not None:
            for parameter in self.template.parameters():
                parameter.grad = None

    def _rows(self, data: Any, name: str) -> Rows | None:
        if data is None:
            return None
        try:
            return Rows(data, target_key=self.target_key, split=self.step is None)
        except Exception as error:
            self.notes.append(f"the samples of {name} cannot be read by number: {error}")
            return None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Leave generators, gradient mode, autocast, thread-local state and the caller's module as they were found."""
        # Transformers have a fast path in evaluation that takes masks of numbers for others than training does
        with (
            _without_fast_path(),
            kept_rng(),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            _kept_parametrizations(self.module),
        ):
            yield

    @cached_property
    def sizes(self) -> set[int]:
        """The sizes of the dimensions in play, which the number of sample rows must not equal."""
        found = {size for parameter in self.module.parameters() for size in parameter.shape}
        if self.rows is not None:
            sample = self.rows.batch([0])
            found |= {size for x in leaves((sample.inputs, sample.targets, sample.raw)) for size in x.shape[1:]}
        return found

    @cached_property
    def _batches(self) -> tuple[Batch, Batch | None]:
        """Return two batches of n rows each; the second is None where rows are too few."""
        if self.given is not None:
            found = cut_given(self.given, self.sizes)
            self._numbers_made(found[0])
            return found
        assert self.rows is not None
        rows = self.rows
        if rows.batches is not None:
            self._numbers_made(rows.batch([0]))
            return rows.batch([0]), rows.batch([1]) if rows.n > 1 else None
        most = max(5, _MOST_NUMBERS // rows.width)
        wanted = [size for size in SIZES if 2 * size <= rows.n and size <= most and size not in self.sizes]
        own = getattr(rows.loader, "batch_size", None)
        if own and 2 * own <= rows.n:
            wanted.append(own)
        order = torch.randperm(rows.n, generator=torch.Generator().manual_seed(1))
        numbers = order[: 2 * max([*wanted, 16])].tolist()
        large: tuple[Batch, Batch | None] | None = None  # runs, and makes more than a trace should keep
        for size in wanted:
            if size > most and size != own:
                continue
            both = rows.batch(numbers[: 2 * size])
            first, second = (take(both, 2 * size, range(i * size, (i + 1) * size)) for i in (0, 1))
            if first is None or second is None:
                first, second = rows.batch(numbers[:size]), None
            made = self._numbers_made(first)
            if made is None:
                continue
            enough = _ENOUGH_ROWS if made * _ENOUGH_ROWS <= _HUGE * size else _FEWEST_ROWS
            if made <= _MOST_MADE or size <= enough:
                return first, second
            large, most = (first, second), max(enough, size * _MOST_MADE // made)
        if large is None:
            self._numbers_made(rows.batch(numbers[:32]))
        return large or (rows.batch(numbers[:32]), None)

    def _numbers_made(self, batch: Batch) -> int | None:
        """Return how many numbers the layers make of a batch, or None where the module does not run on it.

        What a copy reaches is looked at here, before anything else is tried: where it runs the caller's own weights (by
        a closure, a patched forward, a step that holds the module itself), it is none, and only structure is looked at.
        """
        if self.template is None:
            return 0
        module, reach = self._copied(only_read=False), Reach(self.module)
        made = 0

        def count(part: nn.Module, args: Any, output: Any) -> None:
            nonlocal made
            made += sum(x.numel() for x in leaves(output))

        is_run = True
        handles = [part.register_forward_hook(count) for part in module.modules()]
        with untouched(self.module):
            try:
                with reach, torch.no_grad():
                    seed_probe(0)
                    if self.step is None:
                        copy_inputs(batch).forward(module)
                    else:
                        self._step_of[module](module, copy_inputs(batch).original())
            except Exception:
                is_run = False
            for handle in handles:
                handle.remove()
        if reach.found:
            self.template = None
            self.notes.append(
                f"a copy of {type(self.module).__name__} runs your own weights ({reach.found}), by a closure or an "
                "object that holds the module: it is not tried, and only its structure is checked"
            )
            return 0
        self._only_reads = is_run and self.step is None and _have_equal_large(self.template, module)
        return made if is_run else None

    @property
    def batch(self) -> Batch:
        """The sample rows."""
        return self._batches[0]

    @property
    def others(self) -> Batch | None:
        """As many other rows."""
        return self._batches[1]

    @property
    def can_run(self) -> bool:
        """Whether there is a copy to run, and rows to run it on."""
        if self.template is None or (self.rows is None and self.given is None):
            return False
        _ = self._batches  # where it is seen whether the copy is one
        return self.template is not None

    def fresh(self, *, training: bool, only_read: bool = False) -> nn.Module:
        """Return a new copy of the module; in training it has the modes that the caller set.

        Args:
            training: Whether it is to be in training mode.
            only_read: Nothing is written into its parameters, so copies may share the numbers of large ones.
        """
        module = self._copied(only_read=only_read)
        if not training:
            module.eval()
        elif not any(part.training for part in module.modules()):
            module.train()
        return module

    def _copied(self, *, only_read: bool) -> nn.Module:
        assert self.template is not None
        memo = _shared(self.template) if only_read and self._only_reads else {}
        module = copy_module(self.template, memo)
        self._step_of[module] = rebound(self._step_of[self.template], memo)
        return module

    def _objective_of(self, module: nn.Module) -> Objective:
        """What is minimised, by a step that reaches this copy and no other."""
        return replace(self.objective, step=self._step_of[module]) if self.step is not None else self.objective

    def forward(self, module: nn.Module, batch: Batch, seed: int = 0) -> Any:
        """Return what a copy gives for a batch, without gradients."""
        seed_probe(seed)
        with torch.no_grad():
            return self.answer(copy_inputs(batch).forward(module))

    def answer(self, outputs: Any) -> Any:
        """Return the answer among outputs, where it has a name or the criterion takes it; else all of them."""
        is_known = self.output_key is not None or self.objective.takes_answer
        return answer_or_all(outputs, self.output_key) if is_known else outputs

    def pass_over(self, module: nn.Module, batch: Batch, seed: int = 0) -> Passed:
        """Run a copy over a batch, and the loss, and keep what was called."""
        trace = Trace()
        seed_probe(seed)
        own = copy_inputs(batch)
        loss = None
        with trace.of(module):
            if self.step is not None:
                passed = self._objective_of(module)(module, own)
                loss, outputs = passed.measured.loss, passed.outputs
                if outputs is None and trace.root is not None:
                    outputs = trace.root[2]
            else:
                outputs = own.forward(module)
                if self.criterion is not None:
                    loss = self.criterion(self.objective.compared(outputs), own.targets)
        outputs = self.answer(outputs)
        return Passed(module, trace, outputs, loss, own)

    @cached_property
    def eval_pass(self) -> Passed:
        """A pass in evaluation mode, without gradients unless the loss itself takes some."""
        batch = self.batch
        try:
            with torch.no_grad():
                return self.pass_over(self.fresh(training=False, only_read=True), batch)
        except RuntimeError:
            return self.pass_over(self.fresh(training=False, only_read=True), batch)

    @cached_property
    def train_pass(self) -> Passed:
        """A pass in training mode, and its gradients."""
        batch = self.batch
        passed = self.pass_over(self.fresh(training=True, only_read=True), batch)
        if isinstance(passed.loss, Tensor) and passed.loss.requires_grad and passed.loss.numel() == 1:
            passed.loss.backward(retain_graph=True)  # rules ask what parts of the loss and the outputs hand back
        return passed

    @property
    def any_pass(self) -> Passed:
        """A pass in training mode where there is a loss, else one in evaluation mode."""
        return self.train_pass if self.has_loss else self.eval_pass

    @property
    def table(self) -> Table | None:
        """The training rows looked at, without targets that the loss does not use."""
        return None if self.rows is None else self._used(self.rows.table)

    @property
    def valid_table(self) -> Table | None:
        """The validation rows looked at, likewise."""
        return None if self.valid_rows is None else self._used(self.valid_rows.table)

    def _used(self, table: Table | None) -> Table | None:
        return table.without_targets if table is not None and self._has_dummy_targets else table

    @cached_property
    def _has_dummy_targets(self) -> bool:
        """Whether a custom criterion gives the same for other targets: it takes them and compares something else."""
        if self.criterion is None or is_torch_loss(self.criterion) or not self.can_run:
            return False
        try:
            outputs = self.objective.compared(self.batch.forward(self.fresh(training=False, only_read=True)))
            given = self.batch.targets
            found = [
                float(self.criterion(outputs, map_leaves(change, given)))
                for change in (torch.clone, _turned, torch.zeros_like, torch.ones_like)
            ]
        except Exception:
            return False
        return len(leaves(given)) > 0 and all(value == found[0] for value in found)

    @cached_property
    def module_batch(self) -> Batch | None:
        """The sample rows as the module takes them: those of a step are what it handed the module."""
        return self.batch if self.step is None else _taken(self.train_pass)

    @cached_property
    def module_others(self) -> Batch | None:
        """As many other rows, likewise, without targets."""
        if self.others is None or self.step is None:
            return None if self.others is None else Batch(self.others.inputs, None)
        return _taken(self.pass_over(self.fresh(training=False, only_read=True), self.others))

    @cached_property
    def n(self) -> int:
        """Rows of the sample; of a collation that puts time first, those that were asked for."""
        asked = self.batch.whole
        found = [x for x in leaves((self.batch.inputs, self.batch.raw)) if x.ndim]
        return asked if asked and any(batch_axis(x, asked) == 1 for x in found) else len(self.batch)

    @cached_property
    def eval_run(self) -> tuple[nn.Module, Batch, Any] | None:
        """A copy in evaluation mode that ran once, the rows as it left them, and what it gave."""
        if self.module_batch is None:
            return None
        module, batch = self.fresh(training=False, only_read=True), copy_inputs(self.module_batch)
        seed_probe(0)
        with torch.no_grad():
            outputs = self.answer(batch.forward(module))
        return module, batch, outputs

    @property
    def eval_outputs(self) -> Any:
        """What the module gives in evaluation mode."""
        return None if self.eval_run is None else self.eval_run[2]

    @property
    def moved(self) -> set[int] | None:
        """The ids of the parameters that an optimizer moves; None without one."""
        if not self.optimizers:
            return None
        return {id(p) for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]}

    @cached_property
    def trained_names(self) -> list[str]:
        """Names of the parameters that are meant to be trained: those that require a gradient and are moved."""
        moved = self.moved
        return [
            name
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and (moved is None or id(parameter) in moved)
        ]

    def optimizer_for(self, module: nn.Module, *, scale: float = 1.0) -> Optimizer | None:
        """Return an optimizer like the caller's first over a copy's parameters; None where that cannot be made."""
        if not self.optimizers:
            return None
        own = self.optimizers[0]
        if not type(own).__module__.startswith("torch.optim."):
            return None  # what a custom class does in its step is the caller's
        twin = {id(a): b for a, b in zip(self.module.parameters(), module.parameters(), strict=True)}
        groups = []
        for group in own.param_groups:
            options = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
            options["lr"] = self.rate_of(group) * scale
            parameters = [twin[id(p)] for p in group["params"] if id(p) in twin]
            if parameters:
                groups.append({**options, "params": parameters})
        try:
            return type(own)(groups) if groups else None  # type: ignore[call-arg]
        except Exception:
            try:
                return type(own)(groups, lr=groups[0]["lr"])  # type: ignore[call-arg]
            except Exception:
                return None

    def steps(
        self, number: int, *, own: bool = False, lr: float = 1e-3, scale: float = 1.0, is_kept: bool = True
    ) -> "Stepped":
        """Train a copy for a few steps on the sample rows, with Adam or with an optimizer like the caller's."""
        key = (number, own, lr, scale)
        if key not in self._stepped:
            found = self._do_steps(number, own=own, lr=lr, scale=scale)
            if not is_kept:
                return found
            self._stepped[key] = found
        return self._stepped[key]

    def _do_steps(self, number: int, *, own: bool, lr: float, scale: float) -> "Stepped":
        module = self.fresh(training=True)
        optimizer: Optimizer | None
        if own:
            optimizer = self.optimizer_for(module, scale=scale)
        else:
            names = set(self.trained_names)
            trained = [p for name, p in module.named_parameters() if name in names]
            optimizer = torch.optim.Adam(trained, lr=lr) if trained else None
        losses: list[float] = []
        if optimizer is None:
            return Stepped(module, losses)
        update = updater(optimizer)
        for i in range(number + 1):
            seed_probe(0)
            if i == 0:  # the loss and the gradients of the first step are known
                loss = self.train_pass.loss
                assert isinstance(loss, Tensor)
            else:
                with torch.set_grad_enabled(i < number):
                    loss = self._loss(module, self.batch)
            losses.append(float(loss.detach()))
            if i == number or not math.isfinite(losses[-1]) or not loss.requires_grad:
                break
            optimizer.zero_grad()
            if i == 0:
                for p, like in zip(module.parameters(), self.train_pass.module.parameters(), strict=True):
                    p.grad = like.grad
                for x, after in zip(module.buffers(), self.train_pass.module.buffers(), strict=True):
                    x.copy_(after)
            else:
                loss.backward()
            update()
        module.zero_grad()  # large ones would wait for the next rule that asks for these steps
        return Stepped(module, losses)

    def _loss(self, module: nn.Module, batch: Batch) -> Tensor:
        own = copy_inputs(batch)
        if self.step is not None:
            return self._objective_of(module)(module, own).measured.loss
        loss = self.criterion(self.objective.compared(own.forward(module)), own.targets)
        assert isinstance(loss, Tensor)
        return loss

    def grads_of(self) -> dict[str, bool]:
        """Return which parameters the loss hands a gradient."""
        return {name: p.grad is not None for name, p in self.train_pass.module.named_parameters()}

    @property
    def has_schedule(self) -> bool:
        """Whether a scheduler has marked the optimizer: its learning rate now is not that of the run."""
        return any("initial_lr" in group for optimizer in self.optimizers for group in optimizer.param_groups)

    @cached_property
    def largest_factor(self) -> float | None:
        """The largest factor that a LambdaLR on an optimizer gives over 10,000 calls, or None without one."""
        if not self.has_schedule:
            return None
        found = []
        for optimizer in self.optimizers:
            for scheduler in schedulers_of(optimizer):
                for function in getattr(scheduler, "lr_lambdas", []) if type(scheduler) is LambdaLR else []:
                    found += [float(function(i)) for i in _CALLS]
        return max(found) if found else None

    def rate_of(self, group: dict[str, Any]) -> float:
        """The learning rate of a parameter group before a schedule lowered it."""
        given = float(group.get("initial_lr", group["lr"]) or group["lr"])
        factor = self.largest_factor
        return given if factor is None or not 0 < factor < 1 or given < 0.5 else given * factor

    @cached_property
    def first_is_norm(self) -> bool:
        """Whether the first layer that is called normalises."""
        if not self.can_run:
            return False
        leaf = [part for _, part, *_ in self.eval_pass.trace.layers if not list(part.children())]
        return bool(leaf) and isinstance(leaf[0], NORMS) and not isinstance(leaf[0], nn.GroupNorm)

    @cached_property
    def module_has_order(self) -> bool:
        """Whether there is a layer that reads along positions."""
        ordered = (nn.RNNBase, nn.MultiheadAttention, CONV, nn.TransformerEncoderLayer)
        return any(isinstance(part, ordered) for part in self.module.modules())

    @cached_property
    def is_classification(self) -> bool:
        """Whether the loss is one of classes."""
        names = {call.name for call in self.train_pass.loss_calls} if self.has_loss else set()
        return bool(names & {"cross_entropy", "nll_loss", *BINARY, "multi_margin_loss"})

    @cached_property
    def ends_in_sigmoid(self) -> bool:
        """Whether the outputs are probabilities already."""
        origins = [self.eval_pass.trace.origin(x) for x in leaves(self.eval_pass.outputs)]
        return any(call is not None and call.name.startswith(("sigmoid", "softmax")) for call in origins)

    @property
    def has_loss(self) -> bool:
        """Whether a loss can be computed on a copy."""
        return self.can_run and (self.criterion is not None or self.step is not None or self.has_own_pass)


def _taken(passed: Passed) -> Batch | None:
    """Return what a step handed the module, where that is all by place, or all by name."""
    args, kwargs, _ = passed.trace.root or ((), {}, None)
    return None if bool(args) == bool(kwargs) else Batch(kwargs or tuple(args), None)


def noise_like(parameter: Tensor, share: float, seed: int) -> Tensor:
    """Return noise of a share of a parameter's own size."""
    generator = torch.Generator().manual_seed(seed)
    scale = float(parameter.detach().float().std()) if parameter.numel() > 1 else 0.0
    scale = max(scale, float(parameter.detach().abs().float().mean()), 0.05)
    return torch.randn(parameter.shape, generator=generator).to(parameter) * scale * share


def shaken(s: Subject, names: Iterable[str], seed: int = 0) -> nn.Module:
    """Return a copy in training mode whose weights of these names are moved by noise of their size."""
    module = s.fresh(training=True)
    with torch.no_grad():
        for i, name in enumerate(sorted(names)):
            parameter = module.get_parameter(name)
            parameter.add_(noise_like(parameter, 1.0, i + 1000 * seed))
    return module


@dataclass
class Stepped:
    """A copy after a few steps, and the losses before each and after the last."""

    module: nn.Module
    losses: list[float]
