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
from luthier.checks.rule import error, note, path_of, rule, warning
from luthier.checks.rules.criterion import first_broadcast
from luthier.checks.rules.loss import answers_to
from luthier.checks.sampled import copy_inputs, differs
from luthier.checks.subject import BATCH_NORM, Subject
from luthier.checks.tracing import Call, Trace
from luthier.core.finding import Finding
from luthier.core.leaves import leaves, map_leaves
from luthier.core.rng import seed_probe
from luthier.core.tape import Tape

_DECISIONS = "compare decisions with targets: argmax over the classes, or logits > 0"
_DRAWS = {"rand", "randn", "rand_like", "randn_like", "normal", "bernoulli", "multinomial", "randint", "randperm",
          "normal_", "uniform_", "bernoulli_", "poisson", "randint_like", "exponential_", "cauchy_"}  # fmt: skip
_SCALES = {"mul", "__mul__", "__rmul__", "mul_", "multiply", "addcmul", "lt", "__lt__", "gt"}
_DROPS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "dropout_",
          "rrelu", "scaled_dot_product_attention"}  # fmt: skip


@rule("check-state-carried", "evaluation", hides="eval-random batch-mixing")
def state_carried(s: Subject) -> Iterator[Finding]:
    """The same input gives another answer the second time: something of the first is kept in the module."""
    if not s.can_run or s.module_batch is None or s.eval_run is None:
        return
    module, _, first = s.eval_run
    second = s.forward(module, s.module_batch)
    if not differs(first, second, tolerance=1e-9):  # the same operations on the same numbers: equal to the bit
        return
    if s.step is not None and _starts_anew(s):
        return
    torch_own = (nn.Module, nn.RNNBase, nn.Linear, nn.LSTM, nn.BatchNorm1d)
    own = [
        name
        for part in s.module.modules()
        for name in dir(type(part))
        if "reset" in name and not any(hasattr(base, name) for base in torch_own)
    ]
    if own:
        yield note(f"the module keeps a state from call to call, and has {own[0]}()", fix="call it between sequences")
    yield warning(
        "the same rows with the same random numbers give other outputs the second time: the module keeps a state "
        "from call to call",
        fix="create the state in forward, or give the module a reset() and call it between sequences",
    )


def _starts_anew(s: Subject) -> bool:
    """Whether the caller's step clears what a module keeps: the same batch has the same loss the second time."""
    module = s.fresh(training=False)
    return len({float(s.pass_over(module, s.batch).loss or 0.0) for _ in range(2)}) == 1


@rule("check-eval-random", "evaluation")
def eval_random(s: Subject) -> Iterator[Finding]:
    """In eval mode the same input gives another answer with other random numbers."""
    if not s.can_run or s.module_batch is None:
        return
    module = s.fresh(training=False, only_read=True)
    first, second = s.eval_outputs, s.forward(module, s.module_batch, seed=1)
    if not differs(first, second):  # a drawn state fades over the steps of a fresh network, and less of a trained one
        if not any(call.name in _DRAWS for call in s.eval_pass.trace.calls):
            return
        with _Louder():
            loud = [s.forward(module, s.module_batch, seed=seed) for seed in (0, 1)]
        if not differs(*loud):
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
                f"{call.name} drops values in evaluation too: F.dropout has training=True by default",
                where=call.layer or "forward",
                fix="F.dropout(x, p, training=self.training), or an nn.Dropout layer",
                by="definition",
            )
    if on_purpose or not isinstance(first, Tensor) or (s.step is not None and not _is_of_classes(s)):
        yield note("the answers in eval mode are random", fix="average several, where that is meant")
    if _learned_noise(trace):
        yield note(
            "the answers in eval mode are drawn with a learned spread",
            fix="take the mean in evaluation, where one answer is wanted",
        )
    names = sorted({call.name for call in trace.calls if call.name in _DRAWS})
    if not names:
        yield note(
            "what forward does in eval mode is drawn by Python or NumPy", fix="draw only in training, unless meant"
        )
    if any(getattr(part, "training", False) for part in module.modules()):
        yield note(
            "a part of the module stays in training mode in evaluation",
            fix="leave train(mode) alone, unless it is meant",
        )
    yield warning(
        f"the same rows give other outputs in eval mode ({', '.join(names) or 'random draws'} in forward)",
        fix="draw only in training: if self.training: …",
    )


class _Louder(Tape):
    """Have what is drawn be a million times as large."""

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Call the function, and scale what it draws anew."""
        answer = func(*args, **kwargs)
        is_new = name in _DRAWS and not name.endswith("_") and isinstance(answer, Tensor)
        return answer * 1e6 if is_new and answer.is_floating_point() else answer


def _is_of_classes(s: Subject) -> bool:
    """Whether a step's loss is one of class numbers: what it would rebuild may be meant to be drawn."""
    targets = (call.argument(1, "target") for call in s.train_pass.loss_calls)
    return s.is_classification and all(isinstance(y, Tensor) and not y.is_floating_point() for y in targets)


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
        elif s.eval_run is not None and not training:
            run = s.eval_run[1]
        else:
            continue
        given, left = (leaves(x.original() if is_step else x.inputs) for x in (before, run))
        pairs = enumerate(zip(given, left, strict=True))
        changed = [i for i, (a, b) in pairs if not bool((a == b).logical_or(a.isnan()).all())]
        if changed:
            yield warning(
                f"input {changed[0]} is changed by forward: an in-place operation overwrites the caller's data",
                where=str(changed[0]),
                fix="x = x * 2 instead of x *= 2; inplace=False in the first activation; or x.clone() first",
            )


@rule("check-checkpoint-incomplete", "evaluation")
def checkpoint_incomplete(s: Subject) -> Iterator[Finding]:
    """Something that training changes is not in state_dict: what is saved answers otherwise than what was trained."""
    if not s.has_loss or s.module_batch is None or not s.trained_names:
        return
    if not _keeps_more(s.module):
        return
    drawn = ((place, key, f"{tuple(x.shape)} looks drawn", "draws others", "") for place, key, x in _drawn(s.module))
    later = (
        (*found, f"is set by {method}()", "does not have it", " in __init__") for *found, method in _later(s.module)
    )
    for place, key, what, anew, when in (*drawn, *later):
        if _moves_outputs(s, place, key):
            yield warning(
                f"{path_of(place, key)} {what}, the outputs depend on it, and state_dict does not contain it: a module "
                f"made anew {anew}",
                where=path_of(place, key),
                fix=f"self.register_buffer({key!r}, …){when}",
            )
    trained = s.steps(3, lr=1e-2).module
    rebuilt = s.fresh(training=False)
    try:
        rebuilt.load_state_dict(map_leaves(lambda x: x.detach().clone(), trained.state_dict()))
    except (RuntimeError, KeyError, ValueError) as problem:
        yield error(
            f"what state_dict gives cannot be loaded into a copy: {str(problem).splitlines()[0][:120]}",
            fix="register tensors whose shape changes as a parameter or buffer",
            by="identity",
        )
    try:
        twin = copy.deepcopy(trained)
    except RuntimeError:  # it holds what came of its parameters, as hooks for spectral norm do: there is no copy
        return
    for part in twin.modules():
        part.training = False
    a, b = s.forward(twin, s.module_batch), s.forward(rebuilt, s.module_batch)
    if differs(a, b, tolerance=1e-3):
        plain = [path_of(place, key) for place, key, _ in _plain_tensors(trained) if not key.startswith("_")]
        persistent = [
            path_of(name, key) for name, part in trained.named_modules() for key in part._non_persistent_buffers_set
        ]
        yield error(
            "after a few steps, a copy that state_dict is loaded into gives other outputs than the trained module",
            where=", ".join((plain + persistent)[:5]),
            fix="keep what training changes in nn.Parameter or register_buffer(name, value)",
            by="identity",
        )


def _plain_tensors(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Yield tensors that are plain attributes of a part: the part's place, their name, and they themselves."""
    for place, part in module.named_modules():
        for key, x in vars(part).items():
            if isinstance(x, Tensor):
                yield place, key, x


def _drawn(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Yield plain tensors that look like random numbers: all different, and unlike their neighbours."""
    for place, key, x in _plain_tensors(module):
        if isinstance(x, nn.Parameter) or not x.is_floating_point() or x.requires_grad:
            continue
        flat = x.detach().double()
        if x.ndim != 2 or min(x.shape) < 3 or x.numel() < 32 or num_different(flat) < 0.99 * x.numel():
            continue
        flat = (flat - flat.mean()) / flat.std().clamp(min=1e-12)
        along = [float((a * b).mean().abs()) for a, b in ((flat[1:], flat[:-1]), (flat[:, 1:], flat[:, :-1]))]
        if max(along) < 4 / x.numel() ** 0.5:
            yield place, key, x


_TRANSIENT = ("__init__", "forward", "reset", "clear", "detach", "init", "to", "_apply", "cuda", "cpu")


def _later(module: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Yield plain tensors of numbers that a method sets after the module was made: its place, its name, the method."""
    for place, key, x in _plain_tensors(module):
        cls = type(module.get_submodule(place))
        if cls.__module__.startswith("torch.") or not x.is_floating_point() or x.requires_grad or not x.ndim:
            continue
        for name, method in vars(cls).items():
            if x.is_meta or not inspect.isfunction(method) or name.startswith(_TRANSIENT):
                continue
            try:
                source = inspect.getsource(method)
            except (OSError, TypeError):
                continue
            if re.search(rf"self\.{re.escape(key)}\b[^=\n(]*=(?!=)", source):
                yield place, key, name


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
    table = s.table
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
        if (pair := first_broadcast(trace.calls)) is not None:
            yield warning(
                f"the metric {name} compares shapes {pair[1]} and {pair[2]}, each answer with every target",
                where=name,
                fix="give both the same shape first",
            )
        half = _number(item, perfect[: len(y) // 2], y[: len(y) // 2])
        worst, same = _number(item, bad, y), _number(item, constant, y)
        if worst is None or same is None or half is None:
            continue
        if abs(best) > 1e-6 and abs(best - 2 * half) < 0.05 * abs(best):
            yield warning(
                f"the metric {name} is {half:.4g} over {len(y) // 2} perfect answers and {best:.4g} over {len(y)}: "
                "it grows with the rows",
                where=name,
                fix="divide by the number of rows",
            )
        if not s.is_classification and constant.is_floating_point() and best > worst:
            noise = torch.randn(constant.shape, generator=torch.Generator().manual_seed(0))
            wild = _number(item, perfect + 100 * perfect.std() * noise, y)
            if wild is not None and same < wild - 10 * abs(best - wild):
                yield warning(
                    f"the metric {name} is {same:.4g} for the mean of the targets, worse than for noise a hundred "
                    f"times as wide ({wild:.4g})",
                    where=name,
                    fix="divide by the variance of the targets, and not by that of the outputs",
                )
        size = max(abs(best), 1e-6)
        if abs(best - worst) < 1e-3 * max(abs(worst), size) and abs(best - same) < 0.02 * size:
            yield warning(
                f"the metric {name} is {best:.4g} for perfect answers and {worst:.4g} for wrong ones",
                where=name,
                fix=_DECISIONS,
            )
        is_named = "acc" in name.lower() or "f1" in name.lower()
        is_share = is_named or (all(0 <= v <= 1.0 + 1e-6 for v in (best, worst, same)) and best > worst)
        if is_share and is_logit and unsure is not None:
            best = min(best, _number(item, unsure, y) or 0.0)
        if is_share and s.is_classification and best < 0.99:
            yield warning(f"the metric {name} is {best:.4g} for perfect answers", where=name, fix=_DECISIONS)


def _number(item: Any, outputs: Tensor, targets: Tensor) -> float | None:
    try:
        return float(item(outputs, targets))
    except Exception:
        return None


@rule("check-metric-average", "evaluation", several=True)
def evaluate(s: Subject) -> Iterator[Finding]:
    """A custom evaluate function: its modes, what it leaves changed, and whether its figure hangs on the batch size."""
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
    moded = nn.modules.dropout._DropoutNd | BATCH_NORM
    matters = [type(part).__name__ for part in module.modules() if isinstance(part, moded)]
    after_modes = []
    sizes = (n, 1 if not matters else 7, 16)
    for size in sizes:
        seed_probe(0)
        trace = Trace()
        with trace:
            answer = _call_evaluate(s, module, DataLoader(data, batch_size=size))
        after_modes.append(module.training)
        if (pair := first_broadcast(trace.calls)) is not None:
            yield warning(
                f"evaluate compares shapes {pair[1]} and {pair[2]}, each answer with every target",
                fix="give both the same shape first",
                code="check-metric",
            )
            return
        if answer is None:
            return
        figures.append(answer)
        module.train()
    handle.remove()
    if any(modes) and matters:
        yield warning(
            f"evaluate runs the module in training mode, with {matters[0]} in it",
            where="evaluate",
            fix="module.eval() before, module.train() after",
            code="check-eval-mode",
        )
        return
    if not all(after_modes) and modes and not any(modes):
        what, fix = "evaluate leaves the module in eval mode", "module.train() at its end"
        if not matters:
            yield note(what, fix=fix, code="check-train-mode")
        else:  # and no error: the loop, which is not seen here, may call it
            what += ": without module.train() in the loop, dropout stays off, and batch norm does not update"
            fix += ", or at the start of each epoch"
            yield warning(what, where="evaluate", fix=fix, code="check-train-mode")
            return
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        yield warning(
            f"evaluate changes {changed[0]}",
            where=changed[0],
            fix="module.eval() and torch.no_grad() around it",
            code="check-eval-mode",
        )
        return
    spread = max(figures) - min(figures)
    batches = [-(-n // size) for size in sizes]
    times = list(zip(figures, batches, strict=True))[1:]
    is_sum = all(abs(figure * count - figures[0]) < 0.02 * abs(figures[0]) + 1e-9 for figure, count in times)
    if not any(drawn) and is_sum and abs(figures[0]) > 1e-6:
        yield warning(
            f"evaluate gives {figures[0]:.6g} over {n} rows in one batch and {figures[1]:.6g} in {batches[1]}: a sum "
            "over rows, divided by the number of batches",
            where="evaluate",
            fix="divide by the number of rows",
            code="check-metric",
        )
        return
    if not any(drawn) and spread > 1e-4 * max(abs(figure) for figure in figures) + 1e-6:
        yield warning(
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
