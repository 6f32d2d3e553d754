"""Evaluation: the same answer twice, nothing changed by looking, all of it saved, and a figure that is right."""

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from luthier.checks.rows import num_different
from luthier.checks.rule import error, note, rule, warning
from luthier.checks.rules.criterion import PAIRWISE, broadcast_pair
from luthier.checks.rules.loss import answers_to
from luthier.checks.sampled import copy_inputs, differs
from luthier.checks.subject import Subject
from luthier.checks.tracing import Call, Trace
from luthier.core.finding import Finding
from luthier.core.leaves import leaves
from luthier.core.rng import seed_probe

_DRAWS = {"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "multinomial", "randint", "randperm",
          "normal_", "uniform_", "bernoulli_", "poisson", "randint_like", "exponential_", "cauchy_"}  # fmt: skip
_SCALES = {"mul", "__mul__", "__rmul__", "mul_", "multiply", "addcmul", "lt", "__lt__", "gt"}
_DROPS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "dropout_",
          "rrelu", "scaled_dot_product_attention"}  # fmt: skip


@rule("check-state-carried", "evaluation", hides=["check-eval-random", "check-batch-mixing"])
def state_carried(s: Subject) -> Iterator[Finding]:
    """The same input gives another answer the second time: something of the first is kept in the module."""
    if not s.can_run or s.module_batch is None or s.eval_run is None:
        return
    module, _, first = s.eval_run
    second = s.forward(module, s.module_batch)
    if not differs(first, second, tolerance=1e-9):  # the same operations on the same numbers: equal to the bit
        return
    resets = [
        name
        for part in s.module.modules()
        for name in dir(type(part))
        if "reset" in name
        and name != "reset_parameters"
        and not hasattr(nn.Module, name)
        and not hasattr(nn.RNNBase, name)
    ]
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in s.module.modules()) and not resets:
        resets = []
    own = [name for name in resets if not any(hasattr(base, name) for base in (nn.Linear, nn.LSTM, nn.BatchNorm1d))]
    if own:
        yield note(
            "check-state-carried",
            f"the module keeps a state from call to call, and has {own[0]}()",
            fix="call it between sequences",
        )
        return
    yield error(
        "check-state-carried",
        "the same rows with the same random numbers give other outputs the second time: the module keeps a state "
        "from call to call",
        fix="make the state anew in forward, or give the module a reset() and call it between sequences",
    )


@rule("check-eval-random", "evaluation")
def eval_random(s: Subject) -> Iterator[Finding]:
    """In eval mode the same input gives another answer with other random numbers."""
    if not s.can_run or s.module_batch is None:
        return
    module = s.fresh(training=False, only_read=True)
    first, second = s.eval_outputs, s.forward(module, s.module_batch, seed=1)
    if not differs(first, second):
        return
    trace = Trace()
    seed_probe(0)
    with trace.of(module):
        copy_inputs(s.module_batch).forward(module)
    on_purpose = False
    for call in trace.calls:
        if _drops(call):
            if "training" in call.source.split(")")[0] or "training=True" in call.source:
                on_purpose = True
                continue
            yield error(
                "check-eval-random",
                f"{call.name} drops values in evaluation too: F.dropout has training=True unless told",
                where=call.layer or "forward",
                fix="F.dropout(x, p, training=self.training), or an nn.Dropout layer",
            )
            return
    if on_purpose or s.step is not None or not isinstance(first, Tensor):
        yield note(
            "check-eval-random", "the answers in eval mode are random", fix="average several, where that is meant"
        )
        return
    if _learned_noise(trace):
        yield note(
            "check-eval-random",
            "the answers in eval mode are drawn with a learned spread",
            fix="take the mean in evaluation, where one answer is wanted",
        )
        return
    names = sorted({call.name for call in trace.calls if call.name in _DRAWS})
    if any(getattr(part, "training", False) for part in module.modules()):
        yield note(
            "check-eval-random",
            "a part of the module stays in training mode in evaluation",
            fix="leave train(mode) alone, unless it is meant",
        )
        return
    yield warning(
        "check-eval-random",
        f"the same rows give other outputs in eval mode ({', '.join(names) or 'random draws'} in forward)",
        fix="draw only in training: if self.training: …",
    )


def _drops(call: Call) -> bool:
    if call.name == "scaled_dot_product_attention":
        return bool(call.argument(4, "dropout_p", 0.0))
    return call.name in _DROPS and bool(call.argument(2, "training", True)) and call.argument(1, "p", 0.5) != 0


def _learned_noise(trace: Trace) -> bool:
    """Whether what is drawn is scaled by something learned, or is what decides (a sample of a distribution)."""
    drawn = {id(x) for call in trace.calls if call.name in _DRAWS for x in leaves(call.output)}
    for call in trace.calls:
        is_scaled = call.name in _SCALES and any(id(x) in drawn for x in call.tensors)
        if is_scaled and any(x.requires_grad and id(x) not in drawn for x in call.tensors):
            return True
        if call.name in ("normal", "multinomial", "bernoulli", "gumbel_softmax") and any(
            x.requires_grad for x in call.tensors
        ):
            return True
    return any(call.name == "gumbel_softmax" for call in trace.calls)


@rule("check-input-changed", "evaluation")
def input_changed(s: Subject) -> Iterator[Finding]:
    """Forward writes into its input: the batch that the caller holds is another one afterwards."""
    if not s.can_run or s.module_batch is None:
        return
    for training in (False, True):
        before, is_step = s.module_batch, training and s.step is not None
        if is_step:  # what the step was given, and what it left of that
            before, run = s.batch, s.train_pass.batch
        elif training and s.step is None:
            run = s.train_pass.batch
        elif not training and s.eval_run is not None:
            run = s.eval_run[1]
        else:
            run = copy_inputs(s.module_batch)
            seed_probe(0)
            with torch.no_grad():
                run.forward(s.fresh(training=training))
        changed = [
            i
            for i, (a, b) in enumerate(
                zip(*(leaves(x.original() if is_step else x.inputs) for x in (before, run)), strict=True)
            )
            if not bool((a == b).logical_or(a.isnan()).all())
        ]
        if changed:
            yield warning(
                "check-input-changed",
                f"input {changed[0]} is another after forward: an operation in place writes over the caller's data",
                where=str(changed[0]),
                fix="x = x * 2 in place of x *= 2; inplace=False in the first activation; or x.clone() first",
            )
            return


@rule("check-checkpoint-incomplete", "evaluation")
def checkpoint_incomplete(s: Subject) -> Iterator[Finding]:
    """Something that training changes is not in state_dict: what is saved answers otherwise than what was trained."""
    if not s.has_loss or s.module_batch is None or not s.trained_names:
        return
    if not _keeps_more(s.module):
        return
    for place, key, x in _drawn_tensors(s.module):
        if _moves_outputs(s, place, key):
            name = f"{place}.{key}" if place else key
            yield warning(
                "check-checkpoint-incomplete",
                f"{name} {tuple(x.shape)} looks drawn, the outputs hang on it, and state_dict does not hold it: a "
                "module made anew draws others",
                where=name,
                fix=f"self.register_buffer({key!r}, …)",
            )
            return
    for place, key, method in _set_later(s.module):
        if _moves_outputs(s, place, key):
            name = f"{place}.{key}" if place else key
            yield warning(
                "check-checkpoint-incomplete",
                f"{name} is set by {method}(), the outputs hang on it, and state_dict does not hold it: a module made "
                "anew does not have it",
                where=name,
                fix=f"self.register_buffer({key!r}, …) in __init__",
            )
            return
    trained = s.steps(3, lr=1e-2).module
    rebuilt = s.fresh(training=False)
    try:
        rebuilt.load_state_dict(
            {
                name: value.detach().clone() if isinstance(value, Tensor) else value
                for name, value in trained.state_dict().items()
            }
        )
    except (RuntimeError, KeyError, ValueError) as problem:
        yield error(
            "check-checkpoint-incomplete",
            f"what state_dict gives cannot be loaded into a copy: {str(problem).splitlines()[0][:120]}",
            fix="register what has a shape of its own as a parameter or buffer",
        )
        return
    try:
        twin = copy.deepcopy(trained)
    except RuntimeError:  # it holds what came of its parameters, as hooks for spectral norm do: there is no copy
        return
    for part in twin.modules():
        part.training = False
    a, b = s.forward(twin, s.module_batch), s.forward(rebuilt, s.module_batch)
    if differs(a, b, tolerance=1e-3):
        plain = [
            f"{name}.{key}" if name else key
            for name, part in trained.named_modules()
            for key, value in vars(part).items()
            if isinstance(value, Tensor) and not key.startswith("_")
        ]
        persistent = [
            f"{name}.{key}" if name else key
            for name, part in trained.named_modules()
            for key in part._non_persistent_buffers_set
        ]
        yield error(
            "check-checkpoint-incomplete",
            "after a few steps, a copy that state_dict is loaded into gives other outputs than the trained module",
            where=", ".join((plain + persistent)[:5]),
            fix="hold what training changes in nn.Parameter or register_buffer(name, value)",
        )


def _drawn_tensors(module: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Return plain tensors that look like random numbers: all different, and unlike their neighbours."""
    found = []
    for place, part in module.named_modules():
        for key, x in vars(part).items():
            if not isinstance(x, Tensor) or isinstance(x, nn.Parameter) or not x.is_floating_point() or x.requires_grad:
                continue
            flat = x.detach().double()
            if x.ndim != 2 or min(x.shape) < 3 or x.numel() < 32 or num_different(flat) < 0.99 * x.numel():
                continue
            flat = (flat - flat.mean()) / flat.std().clamp(min=1e-12)
            along = [float((a * b).mean().abs()) for a, b in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1]))]
            if max(along) < 4 / x.numel() ** 0.5:
                found.append((place, key, x))
    return found


_TRANSIENT = ("__init__", "forward", "reset", "clear", "detach", "init", "to", "_apply", "cuda", "cpu")


def _set_later(module: nn.Module) -> list[tuple[str, str, str]]:
    """Return plain tensors of numbers that a method sets after the module was made: its place, its name, the method."""
    found = []
    for place, part in module.named_modules():
        if type(part).__module__.startswith("torch."):
            continue
        plain = [
            key
            for key, x in vars(part).items()
            if isinstance(x, Tensor) and x.is_floating_point() and not x.requires_grad and x.ndim and not x.is_meta
        ]
        for name, method in vars(type(part)).items():
            if not plain or not inspect.isfunction(method) or name.startswith(_TRANSIENT):
                continue
            try:
                source = inspect.getsource(method)
            except (OSError, TypeError):
                continue
            found += [
                (place, key, name) for key in plain if re.search(rf"self\.{re.escape(key)}\b[^=\n(]*=(?!=)", source)
            ]
    return found


def _moves_outputs(s: Subject, place: str, key: str) -> bool:
    assert s.module_batch is not None
    module = s.fresh(training=False)
    part = module.get_submodule(place)
    setattr(part, key, getattr(part, key).flip(0) * 1.5)
    return differs(s.eval_outputs, s.forward(module, s.module_batch), tolerance=1e-3)


def _keeps_more(module: nn.Module) -> bool:
    """Whether a module holds anything beside what state_dict gives: plain tensors, lists, a state_dict of its own."""
    for part in module.modules():
        cls = type(part)
        if part._non_persistent_buffers_set or cls.state_dict is not nn.Module.state_dict:
            return True
        if cls._save_to_state_dict is not nn.Module._save_to_state_dict or part._state_dict_hooks:
            return True
        for name, value in vars(part).items():
            if name.startswith("_") and isinstance(value, dict | set | type(None)):
                continue
            if isinstance(value, Tensor | nn.Module | dict | list | set) and name not in _PLAIN:
                return True
    return False


_PLAIN = ("_flat_weights", "_flat_weights_names", "_all_weights", "_flat_weight_refs", "__constants__")


@rule("check-metric", "evaluation")
def metric(s: Subject) -> Iterator[Finding]:
    """A metric that does not know a perfect answer, broadcasts, or grows with the number of rows."""
    if not s.metrics or s.rows is None or not s.can_run or s.step is not None:
        return
    table = s.rows.table
    if table is None or table.targets is None:
        return
    y = table.targets[:96]
    out = s.eval_outputs
    if not isinstance(out, Tensor) or out.shape[0] != s.n:
        return
    perfect, constant, bad = answers_to(s, out, y)
    is_binary = set(y.unique().tolist()) <= {0, 1} and s.is_classification and out.shape[1:].numel() == y[0].numel()
    is_logit = is_binary and not s.ends_in_sigmoid
    unsure = perfect / 6 * 0.3 if is_logit else None  # logits .3 and -.3: on both sides of 0, not of .5
    for item in s.metrics:
        name = getattr(item, "__name__", type(item).__name__)
        trace = Trace()
        with trace:
            best = _number(item, perfect, y)
        if best is None:
            continue
        for call in trace.calls:
            if call.name in PAIRWISE and (shapes := broadcast_pair(call)) is not None:
                yield error(
                    "check-metric",
                    f"the metric {name} compares shapes {shapes[0]} and {shapes[1]}, each answer with every target",
                    where=name,
                    fix="bring both to one shape first",
                )
                return
        half = _number(item, perfect[: len(y) // 2], y[: len(y) // 2])
        worst, same = _number(item, bad, y), _number(item, constant, y)
        if worst is None or same is None or half is None:
            continue
        if abs(best) > 1e-6 and abs(best - 2 * half) < 0.05 * abs(best):
            yield error(
                "check-metric",
                f"the metric {name} is {half:.4g} over {len(y) // 2} perfect answers and {best:.4g} over {len(y)}: "
                "it grows with the rows",
                where=name,
                fix="divide by the number of rows",
            )
            return
        if not s.is_classification and constant.is_floating_point() and best > worst:
            noise = torch.randn(constant.shape, generator=torch.Generator().manual_seed(0))
            wild = _number(item, perfect + 100 * perfect.std() * noise, y)
            if wild is not None and same < wild - 10 * abs(best - wild):
                yield error(
                    "check-metric",
                    f"the metric {name} is {same:.4g} for the mean of the targets, worse than for noise a hundred "
                    f"times as wide ({wild:.4g})",
                    where=name,
                    fix="divide by the variance of the targets, and not by that of the outputs",
                )
                return
        if abs(best - worst) < 1e-3 * max(abs(best), abs(worst), 1e-6) and abs(best - same) < 0.02 * max(
            abs(best), 1e-6
        ):
            yield error(
                "check-metric",
                f"the metric {name} is {best:.4g} for perfect answers and {worst:.4g} for wrong ones",
                where=name,
                fix="compare decisions with targets: argmax over the classes, or logits > 0",
            )
            return
        is_share = (
            "acc" in name.lower()
            or "f1" in name.lower()
            or (all(0 <= v <= 1.0 + 1e-6 for v in (best, worst, same)) and best > worst)
        )
        if is_share and is_logit and unsure is not None:
            best = min(best, _number(item, unsure, y) or 0.0)
        if is_share and s.is_classification and best < 0.99:
            yield error(
                "check-metric",
                f"the metric {name} is {best:.4g} for perfect answers",
                where=name,
                fix="compare decisions with targets: argmax over the classes, or logits > 0",
            )
            return


def _number(item: Any, outputs: Tensor, targets: Tensor) -> float | None:
    try:
        return float(item(outputs, targets))
    except Exception:
        return None


@rule("check-metric-average", "evaluation")
def evaluate(s: Subject) -> Iterator[Finding]:
    """An own evaluate function: its modes, what it leaves changed, and whether its figure hangs on the batch size."""
    rows = s.valid_rows or s.rows
    if s.evaluate is None or rows is None or s.template is None:
        return
    table = rows.table
    if table is None or table.targets is None:
        return
    n = min(len(table), 101)
    data = TensorDataset(*[x[:n] for x in table.inputs], table.targets[:n])
    module = s.fresh(training=True)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes: list[bool] = []
    drawn: list[bool] = []  # dropout that is on in a module in evaluation is meant

    def seen(part: nn.Module, args: Any) -> None:
        modes.append(part.training)
        drops = (m for m in part.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
        drawn.append(not part.training and any(m.training for m in drops))

    handle = module.register_forward_pre_hook(seen)
    figures = []
    matters = [
        type(part).__name__
        for part in module.modules()
        if isinstance(part, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm)
    ]
    after_modes = []
    sizes = (n, 1 if not matters else 7, 16)
    for size in sizes:
        seed_probe(0)
        trace = Trace()
        with trace:
            answer = _call_evaluate(s, module, DataLoader(data, batch_size=size))
        after_modes.append(module.training)
        for call in trace.calls:
            if call.name in PAIRWISE and (shapes := broadcast_pair(call)) is not None:
                yield error(
                    "check-metric",
                    f"evaluate compares shapes {shapes[0]} and {shapes[1]}, each answer with every target",
                    fix="bring both to one shape first",
                )
                return
        if answer is None:
            return
        figures.append(answer)
        module.train()
    handle.remove()
    if any(modes) and matters:
        yield error(
            "check-eval-mode",
            f"evaluate runs the module in training mode, with {matters[0]} in it",
            where="evaluate",
            fix="module.eval() before, module.train() after",
        )
        return
    if not all(after_modes) and modes and not any(modes):
        yield (
            warning(  # and no error: the loop, which is not seen here, may call it
                "check-train-mode",
                "evaluate leaves the module in eval mode: without module.train() in the loop, training goes on without "
                "dropout, and batch norm stands still",
                where="evaluate",
                fix="module.train() at its end, or at the start of each epoch",
            )
            if matters
            else note("check-train-mode", "evaluate leaves the module in eval mode", fix="module.train() at its end")
        )
        if matters:
            return
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        yield error(
            "check-eval-mode",
            f"evaluate changes {changed[0]}",
            where=changed[0],
            fix="module.eval() and torch.no_grad() around it",
        )
        return
    spread = max(figures) - min(figures)
    batches = [-(-n // size) for size in sizes]
    if (
        not any(drawn)
        and all(
            abs(figure * count - figures[0]) < 0.02 * abs(figures[0]) + 1e-9
            for figure, count in zip(figures[1:], batches[1:], strict=True)
        )
        and abs(figures[0]) > 1e-6
    ):
        yield error(
            "check-metric",
            f"evaluate gives {figures[0]:.6g} over {n} rows in one batch and {figures[1]:.6g} in {batches[1]}: a sum "
            "over rows, divided by the number of batches",
            where="evaluate",
            fix="divide by the number of rows",
        )
        return
    if not any(drawn) and spread > 1e-4 * max(abs(figure) for figure in figures) + 1e-6:
        yield error(
            "check-metric-average",
            f"evaluate gives {figures[0]:.6g} in one batch, {figures[1]:.6g} and {figures[2]:.6g} in small ones: a "
            "mean of the batches' means",
            where="evaluate",
            fix="sum over rows and divide once by the number of rows",
        )


def _call_evaluate(s: Subject, module: nn.Module, loader: Any) -> float | None:
    assert s.evaluate is not None
    try:
        answer: Any = s.evaluate(module, loader)
    except Exception as problem:
        s.notes.append(f"evaluate raises {type(problem).__name__} on a DataLoader of some rows of valid: {problem}")
        return None
    if isinstance(answer, dict):
        answer = next(iter(answer.values()), None)
    if isinstance(answer, list | tuple):
        answer = answer[0] if answer else None
    try:
        return float(answer)
    except (TypeError, ValueError):
        return None
