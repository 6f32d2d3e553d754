"""Watch a hand-written loop: the order of its calls, the modes, the learning rate, and what is kept of the weights."""

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data.dataloader import _BaseDataLoaderIter

from luthier.checks.hearing import Listener, norm_of
from luthier.checks.look import check_parts, chosen_rules, look
from luthier.checks.rule import error, warning
from luthier.checks.subject import LOSSES, Passed, Subject, schedulers_of
from luthier.checks.tracing import Call, Trace
from luthier.core.batch import Batch
from luthier.core.finding import Finding
from luthier.core.leaves import leaves, map_leaves

_log = logging.getLogger("luthier")
_HELD = 16  # batches whose inputs are kept alive, to tell them apart
_WITHOUT_CRITERION = (
    "criterion", "check-optimizer-settings", "check-dropout", "check-eval-random", "check-batch-mixing", "check-layout",
    "check-shared-layer", "check-freeze-ineffective", "check-state-carried", "check-optimizer-coverage",
)  # fmt: skip
_BY_EPOCH = ("ExponentialLR", "StepLR", "MultiStepLR")
_SEVERAL, _MOSTLY = 3, 0.6  # how often, and in which share of the steps, what is wrong is seen before it is said
_CUT = 0.67  # of the learning rate before: a cut, and no smooth fall
_CLOSE_STEPS = 200  # looked at call by call; after them, only what costs nothing
_MODED = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


def watch(module: nn.Module, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> "Watch":
    """Watch a training loop that you wrote; use it as a context manager around the loop.

    The findings are logged as they are made, and are in `.findings` afterwards. The loop computes the same numbers as
    without it. The first 200 steps are checked call by call, later ones only if that costs nothing.

    Args:
        module: What the loop trains.
        optimizer: What it steps; one or several.

    >>> from torch import nn, optim
    >>> import torch
    >>> net = nn.Linear(4, 1)
    >>> optimizer = optim.SGD(net.parameters(), 0.1)
    >>> x = torch.randn(64, 4)
    >>> with watch(net, optimizer) as seen:
    ...     for _ in range(10):
    ...         ((net(x) - x.sum(1, keepdim=True)) ** 2).mean().backward()
    ...         optimizer.step()
    >>> [finding.code for finding in seen.findings]
    ['check-zero-grad']
    """
    check_parts(module, optimizer)
    found = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ())
    return Watch(module, found)


class _Hook:
    """A hook whose faults end the looking and not the loop; a copy of the module shares it, a pickle leaves it out."""

    def __init__(self, owner: "Watch", call: Callable[..., None]) -> None:
        self.owner, self.call = owner, call

    def __call__(self, *given: Any) -> None:
        if self.owner.has_given_up:
            return
        try:
            self.call(*given)
        except Exception as fault:
            self.owner.give_up(fault)

    def __deepcopy__(self, memo: Any) -> "_Hook":
        return self

    def __reduce__(self) -> Any:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _ignore


def _ignore(*given: Any, **named: Any) -> None:
    """Do nothing."""


def _batches_read() -> int:
    """Return how many batches the DataLoader has given that is furthest in a pass."""
    found = (item for item in gc.get_objects() if issubclass(type(item), _BaseDataLoaderIter))
    return max((item._num_yielded for item in found), default=0)


def _is_cut(before: list[float], rate: float) -> bool:
    """Whether a rate is cut from what it was at the steps before: level, as no smooth schedule is."""
    return len(before) == _SEVERAL and len(set(before)) == 1 and rate < _CUT * before[-1]


@dataclass
class _Gradients:
    """What becomes of the gradients of one optimizer's parameters between its steps."""

    after_step: bool = False
    is_stale: bool = False
    left: Callable[[], bool] = bool  # whether the gradient of the step before is where it was
    stale: int = 0
    fresh: int = 0


@dataclass
class _Backward:
    """One backward pass: its loss over that of the call before it, whether its inputs are new, and what was counted."""

    ratio: float | None
    is_new: bool
    count: int | None


@dataclass
class _Forward:
    """One call of the module in the loop."""

    training: bool
    step: int
    inputs: tuple[int, ...]
    is_moded: bool
    held: Any = None  # the inputs, so that no later tensor gets their number
    used: bool = False
    is_done: bool = False


class Watch:
    """What `watch` returns.

    Attributes:
        findings: What has been seen, in order.
    """

    def __init__(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        self.module, self.optimizers = module, optimizers
        self.findings: list[Finding] = []
        self.has_given_up = False
        self.steps = 0
        self.learning_rates: list[float] = []
        self._near: list[Any] = []  # handles of hooks on single passes
        self._handles: list[Any] = []
        self._mode = Listener(self)
        self._forwards: list[_Forward] = []
        self._runs: list[list[_Forward]] = []  # of forwards that no backward came back to, between two that one did
        self._backwards: list[_Backward] = []  # since the last step
        self._micro: list[bool] = []
        self._uneven: list[float] = []
        self._emptied = self._clips_late = self._clips = self._answered = 0
        self._of_rate: list[Finding] = []  # of the first rate: the loop may raise it
        self._gradients = {id(optimizer): _Gradients() for optimizer in optimizers}
        self._reloaded_at: int | None = None
        self._strangers: set[int] = set()
        self._kept: list[tuple[Any, int, int]] = []
        self._was_training = False
        self._began_training = False
        self._first: tuple[Any, Any] | None = None
        self._looked = False
        self._train_lost = 0
        self._data_seen: set[int] = set()
        self._schedulers: list[Any] = []
        self._stepped: set[int] = set()  # optimizers that did
        self._early: list[Any] = []  # schedulers that were stepped before the first step
        self._clipped: float | None = None  # the norm of the gradients after the last clipping
        self._shrunk = 0
        self._cuts: list[int] = []  # steps before which the learning rate was cut
        self._is_cut_within = False  # several times within one pass over a loader

    def __enter__(self) -> "Watch":
        self.attach()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        self._mode.__exit__(*problem)  # type: ignore[no-untyped-call]
        if problem[0] is not None:
            self.cut_off()
        self.detach()

    @property
    def hearing(self) -> AbstractContextManager[Any]:
        """A context in which calls of torch are heard, of a watch that is attached; nothing after the first steps."""
        return nullcontext() if self._mode.is_far else self._mode

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """A context for what is none of the program's: nothing in it is looked at."""
        before, self._mode.is_off = self._mode.is_off, True
        try:
            yield
        finally:
            self._mode.is_off = before

    def attach(self) -> None:
        """Put the hooks on."""
        module = self.module
        self._began_training = module.training
        self._near = [
            module.register_forward_pre_hook(_Hook(self, self._before), with_kwargs=True),
            module.register_forward_hook(_Hook(self, self._after), with_kwargs=True),
        ]
        self._handles = [
            module.register_state_dict_post_hook(_Hook(self, self._saved)),
            module.register_load_state_dict_pre_hook(_Hook(self, self._loading)),
            module.register_load_state_dict_post_hook(_Hook(self, self._loaded)),
        ]
        for optimizer in self.optimizers:
            watched = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
            some = {id(p): p for p in (watched[:1] + watched[len(watched) // 2 :][:1] + watched[-1:])}
            marks = self._gradients[id(optimizer)]
            self._near += [p.register_hook(_Hook(self, self._gradient_for(p, marks))) for p in some.values()]
        self._handles.append(register_optimizer_step_pre_hook(_Hook(self, self._any_step)))
        for optimizer in self.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(_Hook(self, self._before_step)))
            self._handles.append(optimizer.register_step_post_hook(_Hook(self, self._after_step_of)))

    def step_back(self) -> None:
        """Look no more at forward and backward passes, where the first steps are over."""
        if self._mode.is_far:
            self._end_run()
            self._forwards = []
            for handle in self._near:
                handle.remove()

    def cut_off(self) -> None:
        """Do not judge what an error cut off: passes without a backward pass, and weights that its frames hold."""
        self._forwards, self._kept = [], []

    def detach(self) -> None:
        """Take the hooks off, and say what it came to."""
        for handle in (*self._near, *self._handles):
            handle.remove()
        try:
            self._end_run()
            self._judge()
        except Exception as fault:
            self.give_up(fault)
        self._mode.forget()

    def give_up(self, fault: Exception) -> None:
        """Look no further: a fault in the looking is no fault of the loop."""
        self.has_given_up = self._mode.is_far = True
        _log.debug("the loop is no longer checked: %s: %s", type(fault).__name__, fault)
        what = f"after step {self.steps} the loop is no longer checked: {type(fault).__name__}: {fault}"
        self.findings.append(Finding(code="check-partly", severity="note", what=what))

    def say(self, finding: Finding) -> None:
        """Keep a finding, once a code."""
        if finding.code not in {item.code for item in self.findings}:
            self.findings.append(finding)
            _log.warning("%s", finding)

    def error(self, code: str, what: str, fix: str, where: str = "") -> None:
        """Say a mistake that is certain from what was heard: gradients of the step before, weights that are one."""
        self.say(error(what, by="identity", where=where, fix=fix, code=code))

    def warning(self, code: str, what: str, fix: str) -> None:
        """Say what is likely one."""
        self.say(warning(what, fix=fix, code=code))

    def aliased(self, what: str) -> None:
        """Say that what is kept or loaded is the weights themselves."""
        self.error("check-snapshot", what, fix="copy.deepcopy(module.state_dict()), or clone each tensor")

    # What happens in the loop

    def _before(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        if self._mode.is_off:
            return
        if part is not self.module:  # a copy, which has copies of these hooks
            if part.training is not None and next(part.parameters(), None) is next(self.module.parameters(), 0):
                self.aliased("a copy of the module is called that shares its weights: copy.copy copies none of them")
            return
        tensors = leaves((args, kwargs))
        moded = any(m.training for m in part.modules() if isinstance(m, _MODED))
        numbers = tuple(map(id, tensors))
        self._forwards.append(_Forward(part.training, self.steps, numbers, moded, tensors))
        if len(self._forwards) > _HELD:
            self._forwards[-_HELD - 1].held = None
        self._mode.inside = 1  # and not one more: a forward that raised has not come back
        if self._first is None and torch.is_grad_enabled() and part.training:
            own = [x.detach().clone() for x in tensors]
            self._first = (Batch(kwargs if kwargs and not args else tuple(args), None), own)

    def _after(self, part: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        if self._mode.is_off or part is not self.module:
            return
        self._mode.inside = 0
        if not self._forwards:
            return  # stepped inside forward
        forward = self._forwards[-1]
        forward.is_done = True
        if not self._looked and self._mode.root is None:
            self._mode.root = (args, kwargs, outputs)
        for x in leaves(outputs):
            if x.requires_grad and not x.is_leaf:

                def reached(_: Tensor, forward: _Forward = forward) -> None:
                    forward.used = True

                x.register_hook(reached)

    def _gradient_for(self, parameter: Tensor, marks: _Gradients) -> Any:
        def arriving(_: Tensor) -> None:
            if self.steps > _CLOSE_STEPS or self._mode.is_off:
                return
            gradient = parameter.grad
            is_left = gradient is not None and not gradient.is_sparse and bool((gradient != 0).any())
            if marks.after_step or not is_left:  # what is cleared later is no matter
                marks.is_stale = is_left
                marks.left = lambda: parameter.grad is gradient  # else one by autograd.grad, say, took its place
            marks.after_step = False

        return arriving

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._mode.is_off:
            return
        self._stepped.add(id(optimizer))
        if self._mode.is_far:  # what is left to see: the mode and the rate
            self._see_mode()
            self.learning_rates.append(float(optimizer.param_groups[0].get("lr", 0.0)))
            return
        if not self._looked:
            self._look()
        if self.steps <= _CLOSE_STEPS and self._backwards and len(args) < 2 and not kwargs:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            if all(g is None or (not g.is_sparse and not bool((g != 0).any())) for g in gradients):
                self._emptied += 1
        marks = self._gradients.setdefault(id(optimizer), _Gradients())
        if self.steps and self.steps <= _CLOSE_STEPS and not marks.after_step:
            is_stale = marks.is_stale and marks.left()
            marks.stale += is_stale
            marks.fresh += not is_stale
        if not self.steps and not optimizer.state:
            self._early = [item for item in schedulers_of(optimizer) if getattr(item, "last_epoch", 0) > 0]
        if self.steps in (2, 40):
            self._schedulers = schedulers_of(optimizer) or self._schedulers
        if self._clipped is not None and self.steps <= _CLOSE_STEPS:
            expected, now = self._clipped, norm_of(optimizer)
            self._shrunk += now < 0.2 * expected
        self._clipped = None
        self._end_run()
        if not self.steps:
            self._was_training = self._began_training and any(not f.used and not f.training for f in self._forwards)
        self._see_mode()
        if len(self._backwards) > 1 and self.steps <= _CLOSE_STEPS:
            is_new = all(found.is_new for found in self._backwards)
            ratios = [found.ratio for found in self._backwards if found.ratio is not None]
            is_whole = len(ratios) == len(self._backwards)
            self._micro.append(is_new and is_whole and all(abs(ratio - 1) < 0.01 for ratio in ratios))
            counts = [found.count for found in self._backwards if found.count]
            if is_whole and is_new and len(counts) == len(ratios) and max(ratios) - min(ratios) < 0.01 * max(ratios):
                self._uneven.append(max(counts) / min(counts))
        elif self._backwards:
            self._micro.append(False)
        rate = float(optimizer.param_groups[0].get("lr", 0.0))
        if len(self.optimizers) == 1 and _is_cut(self.learning_rates[-_SEVERAL:], rate):
            self._cuts.append(self.steps)
            if len(self._cuts) == _SEVERAL and self._cuts[-1] <= _CLOSE_STEPS:
                self._is_cut_within = _batches_read() > self._cuts[-1] - self._cuts[0]
        self.learning_rates.append(rate)

    def _see_mode(self) -> None:
        if self.module.training:
            self._was_training = True
        elif self._was_training and any(isinstance(m, _MODED) for m in self.module.modules()):
            self._train_lost += 1

    def _after_step_of(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._mode.is_off:
            return
        self.steps += 1
        if self._mode.is_far:
            return
        self._gradients.setdefault(id(optimizer), _Gradients()).after_step = True
        self._backwards = []
        self._forwards = []
        self._answered = 0
        self._data_seen = set()
        if self.steps > _CLOSE_STEPS:
            self._mode.is_far = True

    def heard_backward(self, loss: Tensor, call: Call | None) -> None:
        """Take note of a backward pass."""
        ratio = count = None
        output = None if call is None or self.steps > 50 else call.output
        if call is not None and isinstance(output, Tensor) and loss.numel() == 1 == output.numel():
            inner = float(output.detach())
            target = call.argument(1, "target")
            varied = isinstance(target, Tensor) and len(target.unique()) > 1
            if inner and varied and call.kwargs.get("reduction", "mean") == "mean":
                ratio = float(loss.detach()) / inner
            if isinstance(target, Tensor) and call.name in ("cross_entropy", "nll_loss"):
                count = int((target != call.kwargs.get("ignore_index", -100)).sum())
        is_own = len(self._forwards) > self._answered  # or a copy's, which another optimizer steps
        self._answered = len(self._forwards)
        inputs = set(self._forwards[-1].inputs) if self._forwards else set()
        self._backwards.append(_Backward(ratio, is_own and not inputs & self._data_seen, count))
        self._data_seen |= inputs

    def heard_clip(self, most: float | None) -> None:
        """Take note of a clipping of gradients, to a norm of at most so much."""
        self._clips += 1
        self._clips_late += not self._backwards
        if most is not None and len(self.optimizers) == 1 and self._backwards and self.steps <= _CLOSE_STEPS:
            self._clipped = min(most, norm_of(self.optimizers[0]))

    def _saved(self, part: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        if prefix or self._mode.is_off or part is not self.module:
            return
        named = dict(self.module.named_parameters())
        held = {step for _, step in self._still_kept()}
        if len(held - {self.steps}) > 1:
            self.aliased(
                f"what state_dict() gave after steps {', '.join(map(str, sorted(held)[:3]))} is still kept: all of "
                "it is the weights as they are now"
            )
        tensors = [(name, x) for name, x in state.items() if isinstance(x, Tensor) and name in named]
        for name, x in tensors[:3]:
            if x is not named[name]:
                self._kept.append((weakref.ref(x), x.data_ptr(), self.steps))

    def _still_kept(self) -> Iterator[tuple[Tensor, int]]:
        """Yield tensors of a state_dict that somebody holds, where they were, and after which step it was taken."""
        if any(ref() is not None for ref, _, step in self._kept if step < self.steps):
            gc.collect()  # what holds itself in a circle is nobody's any more
        for ref, pointer, step in self._kept:
            if (x := ref()) is not None and x.data_ptr() == pointer:
                yield x, step

    def _any_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Look at a step of an optimizer that `watch` was not given: one made anew after the weights were loaded?"""
        if self._reloaded_at is None or self._mode.is_off:
            return
        if id(optimizer) in self._strangers or any(optimizer is own for own in self.optimizers):
            return
        self._strangers.add(id(optimizer))
        own = {id(p) for p in self.module.parameters()}
        mine = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
        had = any(before.state.get(p) for before in self.optimizers for p in mine)
        if had and not any(optimizer.state.get(p) for p in mine) and self._reloaded_at >= 5:
            self.error(
                "check-checkpoint-incomplete",
                f"after step {self._reloaded_at} the weights are loaded, and a new {type(optimizer).__name__} "
                "continues with a new state: that of the one before is lost",
                where=type(optimizer).__name__,
                fix="save optimizer.state_dict() (and the scheduler's) with the weights, and load it",
            )

    def _loading(self, part: nn.Module, state: Any, *rest: Any) -> None:
        if self._mode.is_off:
            return
        self._reloaded_at = self.steps
        own = {name: p.data_ptr() for name, p in self.module.named_parameters()}
        shared = [
            name for name, x in state.items() if isinstance(x, Tensor) and x.numel() and x.data_ptr() == own.get(name)
        ]
        if shared and self.steps:
            self.aliased(
                f"what is loaded shares its memory with the module itself ({shared[0]}): loading it changes nothing"
            )

    def _loaded(self, part: nn.Module, keys: Any) -> None:
        names = {name for name, _ in self.module.named_parameters()}
        if self._mode.is_off or part is not self.module or not names or not keys.unexpected_keys:
            return
        if names <= set(keys.missing_keys):
            self.error(
                "check-checkpoint-incomplete",
                f"none of what is loaded ({keys.unexpected_keys[0]} and so on) is named as the module's parameters "
                "are: with strict=False nothing is loaded, without a message",
                fix="remove the prefix from the names, and keep strict=True",
            )

    def _end_run(self) -> None:
        """Cut the forwards since the last step into runs that no gradient came back to."""
        run: list[_Forward] = []
        for i, forward in enumerate(self._forwards):
            if not forward.is_done:
                continue  # it raised
            if forward.used:
                self._keep_run(run, self._forwards[i])
                run = []
            else:
                run.append(forward)
        self._keep_run(run, None)

    def _keep_run(self, run: list[_Forward], following: _Forward | None) -> None:
        if not run or not any(forward.training and forward.is_moded for forward in run):
            return
        same = len({forward.inputs for forward in run}) == 1 and len(run) > 1
        conditions = following is not None and len(run) == 1 and bool(set(run[0].inputs) & set(following.inputs))
        if not same and not conditions:
            self._runs.append(run)

    def _look(self) -> None:
        """Run the rules over the first training step: what was called, on a copy of the module as it is now."""
        self._looked = True
        if self._first is None or self._mode.root is None:
            return
        batch, own = self._first
        inputs = iter(own)
        call = next((c for c in self._mode.trace.calls if c.name in LOSSES and not c.is_inside), None)
        criterion: Any = None
        is_divided = False  # by as many as the batch has rows, or all that are accumulated
        targets: Any = None
        outputs = self._mode.root[2]
        if call is not None and isinstance(outputs, Tensor):
            x = call.argument(0, "input")
            targets = call.argument(1, "target")
            if x is outputs and isinstance(targets, Tensor):
                function, kwargs = call.function, {k: v for k, v in call.kwargs.items() if k not in ("input", "target")}

                def again(o: Tensor, t: Tensor, rest: Any = call.args[2:]) -> Any:
                    return function(o, t, *rest, **kwargs)

                criterion = again
                loss, summed = self._mode.loss, call.output
                if isinstance(loss, Tensor) and isinstance(summed, Tensor) and summed.numel() == 1 == loss.numel():
                    is_divided = 0 < float(loss.detach()) <= float(summed.detach()) / max(len(targets), 1) * (1 + 1e-5)
        self._mode.is_off = True
        try:
            sample = Batch(map_leaves(lambda _: next(inputs), batch.inputs), targets)
            subject = Subject(self.module, criterion=criterion, optimizer=self.optimizers, batch=sample)
            if criterion is None:
                passed = Passed(self.module, self._mode.trace, outputs, self._mode.loss, sample)
                subject.__dict__["train_pass"] = passed
                rules = chosen_rules(_WITHOUT_CRITERION)
                subject.has_own_pass = True
            else:
                rules = chosen_rules(ignore=["data", *(["check-loss-sum"] if is_divided else [])])
            for finding in look(subject, rules):
                if finding.code == "check-learning-rate":
                    self._of_rate.append(finding)
                elif finding.severity != "note":
                    self.say(finding)
        except Exception as problem:
            _log.debug("the first step could not be checked: %s: %s", type(problem).__name__, problem)
        finally:
            self._mode.is_off = False
            self._mode.trace = Trace()

    # What it comes to

    def _judge(self) -> None:
        total = self.steps
        rates = self.learning_rates
        for finding in self._of_rate:
            if not rates or max(rates) <= 10 * rates[0]:
                self.say(finding)
        for marks in self._gradients.values():
            if marks.stale >= _SEVERAL and marks.stale > 4 * marks.fresh:
                self.error(
                    "check-zero-grad",
                    f"in {marks.stale} of {marks.stale + marks.fresh} steps the gradient of the step before was "
                    "still there when the next one came: they add up",
                    fix="optimizer.zero_grad() before each backward, or after each step; of every optimizer",
                )
        if self._emptied >= _SEVERAL and self._emptied > 0.5 * total:
            self.error(
                "check-zero-grad",
                f"in {self._emptied} of {total} steps the gradients were gone when the optimizer stepped: "
                "zero_grad came after backward",
                fix="zero_grad, then backward, then step",
            )
        rare = len(self._runs) <= max(1, 0.34 * total)
        if self._runs and rare and total >= 2:
            run = max(self._runs, key=len)
            self.warning(
                "check-eval-mode",
                f"after step {run[0].step} the module is called {len(run)} times without a backward pass, in "
                "training mode: dropout drops and batch norm uses the batch",
                fix="module.eval() before evaluation, module.train() after it",
            )
        if self._train_lost >= 2:
            self.warning(
                "check-train-mode",
                f"{self._train_lost} of {total} steps are done in eval mode, after others in training mode: "
                "dropout is off and batch norm does not update",
                fix="module.train() after evaluation, or at the start of each epoch",
            )
        if self._clips >= 2 and self._clips_late == self._clips:
            self.error(
                "check-clip-order",
                f"gradients are clipped {self._clips} times, each time when there are none of this step yet or "
                "no more: before backward, or after step",
                fix="backward, then clip_grad_norm_, then step",
            )
        if self._clips >= _SEVERAL and self._shrunk > _MOSTLY * self._clips:
            self.error(
                "check-clip-order",
                f"in {self._shrunk} of {self._clips} steps the gradients are made smaller after they were clipped: "
                "what is clipped is still scaled",
                fix="scaler.unscale_(optimizer), or the division, before clip_grad_norm_",
            )
        if len(self._micro) >= _SEVERAL and sum(self._micro) > _MOSTLY * len(self._micro):
            self.warning(
                "check-accumulation",
                "several backward passes make one step, each of a mean loss: the gradient is their sum, so "
                "many times too large",
                fix="(loss / number of micro-batches).backward()",
            )
        uneven = sum(ratio > 1.5 for ratio in self._uneven)
        if uneven >= _SEVERAL and uneven > _MOSTLY * len(self._uneven):
            self.warning(
                "check-accumulation",
                f"in {uneven} of {len(self._uneven)} steps the micro-batches' mean losses are averaged, and they "
                f"are means over up to {max(self._uneven):.1f} times as many targets: a target of a short one "
                "counts more",
                fix="sum the losses (reduction='sum'), and divide by the number of targets of all micro-batches",
            )
        self._judge_schedule()
        idle = [item for item in self.optimizers if id(item) not in self._stepped]
        if idle and len(self.optimizers) > 1 and total >= _SEVERAL:
            self.warning(
                "check-optimizer-strangers",
                f"{len(idle)} of {len(self.optimizers)} optimizers never step in {total} steps: another is stepped in "
                "its place, or its networks are not trained",
                fix="after the backward pass of a network's loss, the step of that network's optimizer",
            )
        if self._early and total >= _SEVERAL:
            self.warning(
                "check-scheduler-units",
                f"{type(self._early[0]).__name__} is stepped before the optimizer's first step: the first learning "
                "rate is left out",
                fix="optimizer.step(), then scheduler.step()",
            )
        own = {p.data_ptr() for p in self.module.parameters()}
        alive = [step for x, step in self._still_kept() if step < total and x.data_ptr() in own]
        if alive:
            self.aliased(
                f"what state_dict() gave after step {alive[0]} is still kept, and has changed with every step since"
            )

    def _judge_schedule(self) -> None:
        rates, total = self.learning_rates, self.steps
        if total < 10 or len(self.optimizers) != 1:
            return
        peak = max(rates)
        at = rates.index(peak)
        low = next((i for i in range(at, total) if rates[i] < 1e-3 * peak), None)
        code = "check-scheduler-units"
        if peak > 0 and low is not None and low < 0.5 * total and max(rates[low:]) < 0.1 * peak:
            self.warning(
                code,
                f"the learning rate is below a thousandth of its peak ({peak:g}) after {low} of {total} steps",
                fix="step the scheduler as often as it was made for: by epoch, or by batch",
            )
            return
        if self._is_cut_within:
            cuts = [i for i in range(_SEVERAL, total) if _is_cut(rates[i - _SEVERAL : i], rates[i])]
            self.warning(
                code,
                f"the learning rate is cut {len(cuts)} times, from {rates[cuts[0] - 1]:.3g} to "
                f"{rates[-1]:.3g}, first at step {cuts[0]} and three times within the first pass over the data",
                fix="count epochs, not batches",
            )
            return
        early = next((i for i in range(at, min(total, _CLOSE_STEPS)) if rates[i] < 1e-2 * peak), None)
        for scheduler in schedulers_of(self.optimizers[0]) or self._schedulers:
            done = int(getattr(scheduler, "last_epoch", 0))
            if type(scheduler).__name__ in _BY_EPOCH and early is not None and done > 0.8 * total:
                self.warning(
                    code,
                    f"{type(scheduler).__name__} is stepped with each batch: the learning rate is below a "
                    f"hundredth of its peak ({peak:g}) after {early} steps",
                    fix="call scheduler.step() after each epoch",
                )
                return
            lengths = (getattr(scheduler, name, None) for name in ("total_steps", "T_max", "total_iters"))
            length = next(filter(None, lengths), None)
            name = type(scheduler).__name__
            if done == 0:
                self.warning(
                    code,
                    f"{name} was made and never stepped in {total} steps",
                    fix="scheduler.step() after each epoch, or each batch",
                )
            elif length and done < 0.3 * length and total > 0.6 * length and total > 2 * done:
                self.warning(
                    code,
                    f"{name} is made for {length} calls and got {done} in {total} steps: the learning rate "
                    f"goes through {done / length:.0%} of its course",
                    fix="call scheduler.step() after each batch",
                )
            elif length and name == "CosineAnnealingLR" and done > 2 * length and done > 0.8 * total:
                self.warning(
                    code,
                    f"{name} is made for {length} calls and got {done}: the learning rate goes down and up again",
                    fix="call scheduler.step() after each epoch, or give it T_max in batches",
                )
