"""Is it the loss for these targets: its weights, its kind, its sum, its padding, its sign?"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from luthier.checks.first_steps import first_step, runs_away
from luthier.checks.rule import error, note, rule, warning
from luthier.checks.rules.criterion import losses, stays_within
from luthier.checks.sampled import take
from luthier.checks.subject import ELEMENTWISE, LOSSES, Subject, shaken
from luthier.checks.tracing import Call, terms_of
from luthier.core.finding import Finding
from luthier.core.leaves import leaves

_MOVED = "are in another order than the classes"


@rule("check-class-weights", "criterion")
def class_weights(s: Subject) -> Iterator[Finding]:
    """Class weights that favour the frequent classes, or are in another order than the classes."""
    table = s.table
    if table is None or table.targets is None:
        return
    for call in losses(s):
        if call.name in ("cross_entropy", "nll_loss"):
            weight = call.argument(2, "weight")
            y = table.targets
            if not isinstance(weight, Tensor) or weight.ndim != 1 or y.is_floating_point() or len(weight) < 2:
                continue
            counts = torch.bincount(y[(y >= 0) & (y < len(weight))].reshape(-1), minlength=len(weight)).double()
            seen = counts > 0
            w, c = weight.detach().double()[seen].clamp(min=1e-12), counts[seen]
            if len(w) < 2 or float(w.max() / w.min()) < 1.2 or float(c.max() / c.min()) < 1.3:
                continue
            correlation = float(torch.corrcoef(torch.stack([w.log(), c.log()]))[0, 1])
            inverse = 1 / c
            w_share, usual = w / w.sum(), inverse / inverse.sum()
            same_set = torch.allclose(w_share.sort().values, usual.sort().values, rtol=0.15)
            is_permuted = same_set and not torch.allclose(w_share, usual, rtol=0.3)
            if correlation > 0.3 or is_permuted:
                what = "are larger for the frequent classes" if correlation > 0.3 else _MOVED
                yield warning(
                    f"the class weights {what}: weights {_few(w)} for {_few(c)} rows",
                    fix="weight = n / (classes * count of the class), in the order of the class numbers",
                )
            return
        if call.name == "binary_cross_entropy_with_logits":
            weight = call.kwargs.get("pos_weight")
            y = table.targets
            if not isinstance(weight, Tensor) or weight.numel() not in (1, y.shape[-1]):
                continue
            share = y.double().reshape(-1, weight.numel()).mean(0)
            wrong = ((weight > 1.1) & (share > 0.6)) | ((weight < 0.9) & (share < 0.4))
            if bool(wrong.any()):
                i = int(wrong.nonzero()[0])
                yield warning(
                    f"pos_weight is {float(weight.reshape(-1)[i]):.3g}, and {float(share[i]):.0%} of the labels "
                    "are positive: the frequent side is weighted up",
                    fix="pos_weight = negatives / positives",
                )


def _few(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values[:6].tolist()) + ("…" if len(values) > 6 else "")


@rule("check-loss-for-classes", "criterion")
def loss_for_classes(s: Subject) -> Iterator[Finding]:
    """Class numbers learnt as quantities, by a squared or absolute error."""
    table = s.table if s.step is None else None  # what a step does with it is its own
    if table is None or table.targets is None or len(table) < 40 or table.targets.numel() != len(table):
        return
    y = table.targets.reshape(-1).double()
    cut = y[(y != y.round()) & torch.isfinite(y)]
    for call in losses(s):
        target = call.argument(1, "target")
        is_number = isinstance(target, Tensor) and not target.is_floating_point()
        if call.name in ("cross_entropy", "nll_loss") and len(cut) and is_number:
            yield error(
                f"targets such as {float(cut[0]):g} are cut to whole numbers and used as classes",
                fix="to learn a number use MSELoss",
                by="value",
            )
    values = y.unique()
    is_dense = float(values.max() - values.min()) < 2 * len(values)
    if not 2 <= len(values) <= 30 or bool((values != values.round()).any()) or not is_dense:
        return
    pairs = [(call.name, call.argument(1, "target")) for call in losses(s) if call.name in ELEMENTWISE]
    names = [name for name, target in pairs if isinstance(target, Tensor) and target.numel() == len(s.batch)]
    if not s.train_pass.loss_calls and _is_distance(s):
        names = ["the criterion"]
    for name in names:
        if len(values) == 2 or _is_nominal(table.features, y):
            kind = "two classes" if len(values) == 2 else f"{len(values)} classes without an order"
            yield warning(
                f"{name} learns targets {_few(values)} as quantities, and they look like {kind}",
                fix="one output a class and CrossEntropyLoss; for two classes one logit and BCEWithLogitsLoss",
            )


def _is_distance(s: Subject) -> bool:
    """Whether a custom criterion is 0 where outputs equal the targets, and grows with what lies between them."""
    out, y = s.eval_outputs if s.can_run else None, s.batch.targets
    if s.criterion is None or not isinstance(out, Tensor) or not isinstance(y, Tensor) or out.numel() != y.numel():
        return False
    same = y.float().reshape(out.shape)
    try:
        at, near, far = (float(s.criterion(same + gap, y)) for gap in (0.0, 1.0, 2.0))
        high = (y == y.max()).reshape(-1)
        beyond = float(s.criterion(same[high] + 1.0, y[high]))  # a hinge has nothing against that
    except Exception:
        return False
    return abs(at) < 1e-6 < near < far and beyond > 1e-3


def _is_nominal(features: Tensor, y: Tensor) -> bool:
    """Whether classes are told apart, and not along one line: by ridge regression, and by the means of the classes."""
    x = features.nan_to_num()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    generator = torch.Generator().manual_seed(0)
    width = min(256, max(16, len(x) // 4))
    random = torch.randn(x.shape[1], width, generator=generator, dtype=torch.float64) / max(x.shape[1], 1) ** 0.5
    x = torch.cat([x[:, :512], (x @ random).relu(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    classes, index = y.unique(return_inverse=True)
    order = torch.randperm(len(x), generator=generator)
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    one_hot = torch.nn.functional.one_hot(index, len(classes)).double()
    both = torch.cat([one_hot, y[:, None]], dim=1)
    gram = x[train].T @ x[train] + len(train) * 0.01 * torch.eye(x.shape[1], dtype=torch.float64)
    found = x[test] @ torch.linalg.solve(gram, x[train].T @ (both[train] - both[train].mean(0))) + both[train].mean(0)
    by_class = float((found[:, :-1].argmax(1) == index[test]).double().mean())
    by_line = float(((found[:, -1:] - classes).abs().argmin(1) == index[test]).double().mean())
    if by_class < max(0.45, 1.8 / len(classes)):
        return False
    return by_class > by_line + 0.2 or _order(x[:, : features.shape[1]], index, len(classes)) < 0.4


def _order(x: Tensor, index: Tensor, num_classes: int) -> float:
    """Return how far the distances between the classes' means go with the distances of their numbers."""
    hot = torch.nn.functional.one_hot(index, num_classes).double()
    means = hot.T @ x / hot.sum(0)[:, None]
    i, j = torch.triu_indices(num_classes, num_classes, 1)
    if len(i) < 3:
        return 1.0
    pairs = torch.stack([torch.cdist(means, means)[i, j], (i - j).abs().double()])
    return float(torch.corrcoef(pairs)[0, 1].nan_to_num(1.0))


@rule("check-loss-sum", "criterion", hides="learning-rate")
def loss_sum(s: Subject) -> Iterator[Finding]:
    """A loss that is a sum over the batch: the gradient grows with it, and the learning rate is not told."""
    if not s.has_loss or s.n < 4 or (s.criterion is None and s.step is None):
        return
    half, module = s.n // 2, s.fresh(training=False, only_read=True)
    found = []
    for rows in (range(half), range(half, 2 * half), range(2 * half)):
        part = take(s.batch, s.n, rows)
        loss = None if part is None else s.pass_over(module, part).loss
        if loss is None:
            return
        found.append(float(loss))
    if abs(found[2]) > 1e-6 and abs(found[2] - found[0] - found[1]) < 1e-3 * abs(found[2]):
        say = warning if _is_far(s) else note  # with a rate to match, a sum is as good as a mean
        yield say(
            f"the loss of {2 * half} rows is the sum of its halves' ({found[2]:.4g} = {found[0]:.4g} + "
            f"{found[1]:.4g}): the update grows with the batch size",
            fix="reduction='mean', or divide by the number of rows",
        )


_SLIGHT = 0.1  # a factor of a term that is weighted down


@rule("check-loss-sum", "criterion")
def mean_beside_sum(s: Subject) -> Iterator[Finding]:
    """A term that is a mean over all numbers, and one that is a sum over them: the second outweighs the first."""
    loss = s.train_pass.loss if s.has_loss else None
    if not isinstance(loss, Tensor):
        return
    terms = [term for term in terms_of(s.train_pass.trace, loss) if abs(term[0]) >= _SLIGHT]
    means, sums = ([call.tensors[0] for _, call in terms if _is_over_all(call, name)] for name in ("mean", "sum"))
    if means and sums and len(means[0]) == len(sums[0]):  # of the same rows
        yield warning(
            f"a mean over {means[0].numel():,} numbers is added to a sum over {sums[0].numel():,}, which grows with "
            "the rows and the width: the sum is what is learnt",
            fix="reduction='sum' for both, or a mean of both",
        )


def _is_over_all(call: Call, how: str) -> bool:
    """Whether a call is the mean (or the sum) over all numbers of several rows."""
    x = call.tensors[0] if call.tensors else None
    if not isinstance(call.output, Tensor) or call.output.numel() != 1 or x is None or x.ndim < 2 or x[0].numel() < 4:
        return False
    if call.name in LOSSES:
        is_sum = call.kwargs.get("reduction", "mean") == "sum" or call.kwargs.get("size_average") is False
        return how == ("sum" if is_sum else "mean")
    return call.name == how


_FAR = 0.1  # of the weights' size, by the first step on a few dozen rows: some ten times a usual one


def _is_far(s: Subject) -> bool:
    """Whether the rate does not match a sum: the first step goes too far, or the loss runs away."""
    first = first_step(s)
    return bool(runs_away(s)) or (first is not None and first.ratio is not None and first.ratio > _FAR)


@rule("check-padding-in-loss", "criterion")
def padding_in_loss(s: Subject) -> Iterator[Finding]:
    """Padded positions count in the loss: the network learns to say the padding, and the figure looks good."""
    if not s.has_loss or s.module_batch is None:
        return
    passed, n = s.train_pass, s.n
    counted = [share for call in losses(s) if (share := _padding_counted(s, call)) is not None]
    if counted:
        yield from _counts_padding(max(counted))
        return
    targets, outputs = passed.batch.targets, passed.outputs
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return
    if s.step is not None:  # what it compares with is its own: the inputs alone tell where the padding is
        targets = next(
            (x for x in leaves(s.module_batch.inputs) if x.ndim > 1 and x.shape[:2] == outputs.shape[:2]), None
        )
    if not isinstance(targets, Tensor) or targets.ndim < 2:
        return
    is_flat = outputs.ndim == 2 and any(  # a number a step
        x.shape == outputs.shape and x.is_floating_point() for x in leaves((s.batch.inputs, s.batch.targets))
    )
    if targets.shape[0] != n or (outputs.ndim < 3 and not is_flat) or outputs.shape[0] != n:
        return
    length = targets.shape[1]
    axis = next((axis for axis in (1, 2) if outputs.shape[axis] == length), None)
    if axis is None or length < 3:
        return
    places = padding_of(leaves(s.module_batch.inputs), n, length)
    if places is None and s.step is None and not is_flat:
        places = tail_of(targets if targets.ndim == 2 else targets.flatten(2).abs().sum(2))
    if places is None:
        return
    again = s.pass_over(s.fresh(training=False, only_read=True), s.batch)
    if not isinstance(again.loss, Tensor) or not again.loss.requires_grad:
        return
    gradient = torch.autograd.grad(again.loss, again.outputs, allow_unused=True)[0]
    if gradient is None:
        return
    felt = gradient.abs().movedim(axis, 1).reshape(n, length, -1).sum(2) > 0
    yield from _counts_padding(float((felt & places).sum() / felt.sum().clamp(min=1)))


def _counts_padding(share: float) -> Iterator[Finding]:
    if share > 0.02:
        yield warning(
            f"{share:.0%} of the positions that the loss counts are padding after the end of a sequence",
            fix="leave them out: ignore_index= for class targets, or a mask times the loss over its sum",
        )


def _padding_counted(s: Subject, call: Call) -> float | None:
    """Return the share of padding in the class targets that a loss counts; None where these are not padded."""
    x, y, loss = call.argument(0, "input"), call.argument(1, "target"), s.train_pass.loss
    is_told = isinstance(y, Tensor) and not y.is_floating_point() and x.requires_grad and not y.numel() % s.n
    if not is_told or call.name not in ("cross_entropy", "nll_loss") or not isinstance(loss, Tensor):
        return None
    places = tail_of(y.reshape(s.n, -1))  # by its own account: with a mark of the end that is to be learnt
    if places is None:
        return None
    gradient = torch.autograd.grad(loss, x, allow_unused=True, retain_graph=True)[0]
    if gradient is None:
        return None
    felt = gradient.abs().sum(1).reshape(s.n, -1) > 0
    return float((felt & places).sum() / felt.sum().clamp(min=1))


def tail_of(values: Tensor) -> Tensor | None:
    """Return where rows `(N, T)` end in a run of one value that stands nowhere else, of varying length, or None."""
    n, length = values.shape
    if length < 3 or n < 2 or (values.diff(dim=1) >= 0).all() or (values.diff(dim=1) <= 0).all():
        return None  # or they are sorted
    last = values[:, -1]
    value = last.mode().values
    run = (values == value).flip(1).long().cumprod(1).sum(1)  # (N,), the length of the run at the end
    places = torch.arange(length) >= (length - run)[:, None]
    again = (values == value) & ~places
    again[:, 0] &= bool((values[:, 0] != value).any())  # a mark of the start may be the same number
    elsewhere = float(again.double().mean())
    is_varied = len(run.unique()) >= min(3, n)
    share = float((run > 0).double().mean())
    return places if is_varied and share >= 0.3 and elsewhere < 0.03 and float(places.double().mean()) > 0.03 else None


def padding_of(inputs: list[Tensor], n: int, length: int) -> Tensor | None:
    """Return which positions of the inputs `(N, T, …)` are padding, where that can be seen, or None."""
    for x in inputs:
        if x.ndim >= 2 and x.shape[:2] == (n, length):
            flat = x if x.ndim == 2 else x.flatten(2).abs().sum(2)
            if flat.dtype == torch.bool or len(flat.unique()) <= 2:
                continue
            found = tail_of(flat)
            if found is not None:
                return found
    return None


def answers_to(s: Subject, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs that say the targets, that say one thing always, and that say another thing each time."""
    n = len(y)
    if out.ndim >= 2 and out.shape[1] > 1 and not y.is_floating_point() and y.ndim == out.ndim - 1:
        k = out.shape[1]
        hot = torch.nn.functional.one_hot(y.clamp(0, k - 1), k).movedim(-1, 1).float()
        wrong = torch.nn.functional.one_hot((y.clamp(0, k - 1) + 1) % k, k).movedim(-1, 1).float()
        first = torch.zeros_like(hot)
        first[:, 0] = 1
        return hot * 10 - 2, first * 10 - 2, wrong * 10 - 2
    shape = (n, *out.shape[1:])
    values = y.float().reshape(shape) if y.numel() == n * out[0].numel() else y.float().expand(shape)
    if set(y.unique().tolist()) <= {0, 1} and s.is_classification:
        is_probability = bool((out >= 0).all()) and bool((out <= 1).all()) and s.ends_in_sigmoid
        scale, shift = (0.9, 0.05) if is_probability else (12.0, -6.0)
        return values * scale + shift, torch.full_like(values, shift), (1 - values) * scale + shift
    return values, torch.full_like(values, float(values.mean())), values.flip(0)


def _with_a_minus(loss: Tensor | None, calls: list[Call]) -> list[tuple[Call, float]]:
    """Return the losses of torch's own that a criterion takes away from its sum, and by which factor."""
    if loss is None or not loss.requires_grad or loss.numel() != 1 or len(calls) < 2:
        return []
    whole = [call for call in calls if call.output.numel() == 1 and not call.is_inside]
    factors = torch.autograd.grad(loss, [call.output for call in whole], allow_unused=True, retain_graph=True)
    return [(call, float(f)) for call, f in zip(whole, factors, strict=True) if f is not None and float(f) < 0]


def _without_floor(s: Subject) -> tuple[float, float, float] | None:
    """Return a term of the loss that only takes away, and the loss before and after some steps: it has no floor.

    What is never above 0, however the weights lie, and goes down for ever is a quantity to be made small (a divergence,
    a distance) with the wrong sign.
    """
    loss, names = s.train_pass.loss, s.trained_names
    if not isinstance(loss, Tensor) or not loss.requires_grad or (s.criterion is None and s.step is None):
        return None
    for place, (factor, call) in enumerate(terms := terms_of(s.train_pass.trace, loss)):
        first, start = factor * float(call.output.detach().sum()), float(loss.detach())
        if first >= 0 or len(terms) == 1 or not call.output.requires_grad:
            continue
        if any(_term(s, shaken(s, names, seed), place) > 0 for seed in range(5)):
            continue
        if _term(s, s.steps(_STEPS // 6, lr=1e-2).module, place) > 3 * first:
            continue
        long = s.steps(_STEPS, lr=1e-2)
        is_low = long.losses[-1] < start - 20 * (abs(start) - first) or long.losses[-1] == -math.inf
        if is_low and not _term(s, long.module, place) > 0:
            return first, start, long.losses[-1]
    return None


def _term(s: Subject, module: nn.Module, place: int) -> float:
    """Return what a term adds to the loss of a copy."""
    passed = s.pass_over(module, s.batch)
    assert passed.loss is not None
    factor, call = terms_of(passed.trace, passed.loss)[place]
    return factor * float(call.output.detach().sum())


_STEPS = 60


def _is_better_when_wrong(s: Subject) -> tuple[float, float] | None:
    """Return a custom criterion's loss of right and of wrong answers, where the right ones have more."""
    out, y = s.eval_outputs if s.can_run else None, s.batch.targets if s.can_run else None
    if s.step is not None or s.criterion is None or not isinstance(out, Tensor) or not isinstance(y, Tensor):
        return None
    if type(s.criterion).__module__.startswith("torch.nn") or not out.is_floating_point() or len(y) < 4:
        return None
    if out.shape[:1] != y.shape[:1] or float(y.float().std()) == 0:
        return None
    is_binary = set(y.unique().tolist()) <= {0, 1}
    is_alike = out.shape == y.shape or (is_binary and y.ndim > 1 and [*out.shape] == [len(y), 1, *y.shape[1:]])
    if not y.is_floating_point() and not is_alike:  # what a custom criterion makes of the classes is its own
        return None
    is_positive = is_binary and float(out.min()) >= 0 and stays_within(s, 0.0, math.inf, -1.0)
    if is_binary and (not is_alike or is_positive):  # distances, where a small one may say yes
        return None
    hot = (y.float() * 12 - 6).reshape(out.shape) if is_binary else None
    try:
        right, constant, wrong = answers_to(s, out, y)
        right, wrong = (right, wrong) if hot is None or s.ends_in_sigmoid else (hot, -hot)
        losses = [float(s.criterion(given, y)) for given in (right, constant, wrong)]
    except Exception:
        return None
    if not all(map(math.isfinite, losses)) or losses[0] <= losses[2] + 1e-3 * max(1.0, abs(losses[2])):
        return None
    return (losses[0], losses[2]) if losses[0] >= losses[1] - 1e-6 else None


@rule("check-loss-sign", "criterion")
def loss_sign(s: Subject) -> Iterator[Finding]:
    """The loss is turned round, or the optimizer climbs: each step makes it worse."""
    fix = "minimise the loss as it is: no minus before it, maximize=False"
    if s.has_loss:
        passed = s.train_pass
        calls = [call for call in passed.loss_calls if isinstance(call.output, Tensor) and call.output.requires_grad]
        is_one = len(calls) == 1 and calls[0].output.numel() == 1 and s.criterion is not None
        if is_one and isinstance(passed.loss, Tensor):
            inner, outer = float(calls[0].output.detach()), float(passed.loss.detach())
            if inner > 0 and outer < 0 and abs(inner + outer) < 1e-4 * abs(inner):
                yield error(
                    f"the loss is {outer:.4g}, minus {calls[0].name} of {inner:.4g}: training makes it larger",
                    fix=fix,
                    by="identity",
                )
        others = [] if is_one or s.step is not None else _with_a_minus(passed.loss, calls)
        for call, factor in others:
            yield warning(
                f"{call.name} of {float(call.output.detach()):.4g} enters the loss with a factor of {factor:.3g}: "
                "training makes it larger",
                fix=fix,
            )
    if s.has_loss and (low := _without_floor(s)) is not None:
        yield warning(
            f"a term of {low[0]:.3g} is never above 0 and has no lower limit: {_STEPS} steps take {low[1]:.4g} to "
            f"{low[2]:.4g}",
            fix="a divergence, a distance or a penalty is added to the loss",
        )
    turned = _is_better_when_wrong(s)
    if turned is not None:
        yield warning(
            f"the loss of the right answers is {turned[0]:.4g}, and of wrong ones {turned[1]:.4g}: training makes them "
            "wrong",
            fix="minimise: -log_prob, 1 - dice, 1 - similarity",
        )
    climbing = [group for optimizer in s.optimizers for group in optimizer.param_groups if group.get("maximize")]
    calls = losses(s)
    if climbing and len(s.optimizers) == 1 and calls and s.step is None:
        yield error(f"the optimizer has maximize=True, and {calls[0].name} is to be small", fix=fix, by="definition")
