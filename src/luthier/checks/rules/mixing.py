"""Does each row's answer come from that row, each position's from what it may see, and each place from its own?"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from luthier.checks.rows import num_different
from luthier.checks.rule import error, rule, warning
from luthier.checks.rules.criterion import PAIRWISE, broadcast_pair
from luthier.checks.rules.loss import padding_of
from luthier.checks.sampled import batch_axis, differs, mix_rows, rows_of, take
from luthier.checks.subject import CONV, Passed, Subject
from luthier.checks.tracing import Call
from luthier.core.batch import Batch
from luthier.core.finding import Finding
from luthier.core.leaves import leaves, map_leaves

_ORDERED = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
            nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer)  # fmt: skip
_READS_ALONG = (CONV, nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)
_READING = {"conv1d", "conv2d", "softmax", "scaled_dot_product_attention", "multi_head_attention_forward", "matmul"}
_REDUCING = {"mean", "sum", "std", "var", "var_mean", "std_mean", "norm", "amax", "amin", "max", "min", "normalize",
             "logsumexp", "prod", "vector_norm", "cumsum_", "median"}  # fmt: skip
_ON_PURPOSE = {"matmul", "__matmul__", "mm", "bmm", "einsum", "cdist", "cumsum", "topk", "sort", "argsort",
               "scaled_dot_product_attention", "multi_head_attention_forward", "one_hot", "index_add", "scatter_add",
               "index_add_", "scatter_add_", "cosine_similarity", "pairwise_distance"}  # fmt: skip


def _reshapes(passed: Passed) -> Iterator[tuple[Call, Tensor]]:
    for call in passed.trace.calls:
        if call.name in ("view", "reshape", "flatten", "unflatten", "_unsafe_view", "resize_", "view_as", "reshape_as"):
            source = next(iter(call.tensors), None)
            if isinstance(source, Tensor) and isinstance(call.output, Tensor) and source.numel() == call.output.numel():
                yield call, source


def _prefix(x: Tensor, size: int) -> int | None:
    """Return how many steps of the axis of that size there are before it, or None unless it is the only one."""
    shape = list(x.shape)
    return math.prod(shape[: shape.index(size)]) if shape.count(size) == 1 else None


@rule("check-batch-mixing", "module", hides="eval-random layout constant-output future-leak mask")
def batch_mixing(s: Subject) -> Iterator[Finding]:
    """A row's answer in evaluation depends on its neighbours: rows are scrambled, or read along the wrong axis."""
    if not s.can_run or s.n < 3 or s.module_batch is None:
        return
    passed, n = s.eval_pass, s.n
    at_first = next((batch_axis(x, n) for x in leaves(s.module_batch.inputs) if x.ndim), None)
    for name, part, args, kwargs in passed.trace.layers:
        if not isinstance(part, _ORDERED):
            continue
        x = args[0] if args else kwargs.get("query", kwargs.get("src", kwargs.get("input")))
        batch_first = getattr(part, "batch_first", None)
        if batch_first is None:
            inner = next((m for m in part.modules() if isinstance(m, nn.MultiheadAttention)), None)
            batch_first = getattr(inner, "batch_first", True)
        is_sequence = isinstance(x, Tensor) and x.ndim == 3 and x.shape[0] == n and x.shape[1] not in (1, n)
        if is_sequence and not batch_first and at_first == 0:
            yield _mixed(
                s,
                f"{type(part).__name__} has batch_first=False and gets {tuple(x.shape)} with the {n} rows in "
                "front: it reads along the batch",
                where=name,
                fix="batch_first=True, or transpose(0, 1) before it",
            )
    for call, source in _reshapes(passed):
        before, after = _prefix(source, n), _prefix(call.output, n)
        if call.is_inside and before is not None and after is not None and before != after and source.shape.numel() > n:
            yield _mixed(
                s,
                f"{call.name} makes {tuple(call.output.shape)} of {tuple(source.shape)}: the {n} rows of the batch "
                "are cut up and mixed",
                where=call.layer or "forward",
                fix="use transpose or permute to move axes; view and reshape do not",
            )
    outputs = None if s.module_others is None else _own_rows(s.eval_outputs, n)
    if outputs is None or s.module_others is None or (s.step is not None and bool((outputs == outputs[:1]).all())):
        return  # what a step's module says of all rows alike is a loss
    kept = list(range(n // 3, n // 3 + max(1, n // 4)))
    changed = _evaluated(s, mix_rows(s.module_batch, s.module_others, n, kept))
    if changed is None or changed.shape != outputs.shape or outputs.shape[1] == n:
        return
    moved = (changed[kept] - outputs[kept]).abs().amax(1) > 1e-4 * outputs.abs().max().clamp(min=1e-9)
    if not bool(moved.any()):
        if _goes_by_place(s, outputs):
            yield warning(
                "rows get other answers in another order of the batch: something goes by a row's place in it",
                fix="positions run along time: x.size(1), and pe[:, :T], where the batch comes first",
            )
        return
    share = float(moved.double().mean())
    what = f"{share:.0%} of the answers change when the other rows of their batch are replaced"
    for call in passed.trace.calls:
        cause = _cause(passed, call, n) if call.is_inside else None
        if cause is not None:
            yield warning(f"{cause[0]}; {what}", where=call.layer or "forward", fix=cause[1])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(5))
    permuted = take(Batch(s.module_batch.inputs, None), n, order.tolist())
    again = None if permuted is None else _evaluated(s, permuted)
    is_set = again is not None and again.shape == outputs.shape and not differs(again, outputs[order], tolerance=1e-3)
    on_purpose = any(
        call.name in _ON_PURPOSE and call.is_inside and _pairs_rows(call, n) for call in passed.trace.calls
    )
    if is_set and on_purpose:
        return
    if on_purpose and share < 0.9 and not is_set:
        return
    if not is_set and share > 0.8:
        yield warning(
            f"{what}, and the order of the rows matters",
            fix="look for view, reshape, cat or a loop over the wrong axis",
        )
    else:
        yield warning(
            what,
            fix="if rows should depend on each other, mark it: module.luthier_ignore = ['check-batch-mixing']",
        )


def _mixed(s: Subject, what: str, where: str, fix: str) -> Finding:
    """Return an error where an answer is seen to change with the other rows of its batch, and else a warning."""
    try:
        n = s.n
        assert s.module_batch is not None
        before, rolled = _own_rows(s.eval_outputs, n), take(Batch(s.module_batch.inputs, None), n, _every_other(n))
        after = None if rolled is None else _evaluated(s, rolled)
        kept = slice(0, (n + 1) // 2)
        is_shown = before is not None and after is not None and before.shape == after.shape
        is_shown = is_shown and differs(before[kept], after[kept], tolerance=1e-4)  # type: ignore[index]
    except Exception:
        is_shown = False
    return error(what, where=where, fix=fix, by="trial") if is_shown else warning(what, where=where, fix=fix)


def _every_other(n: int) -> list[int]:
    """Return the first half of the rows where they are, and in place of the others copies of the first."""
    return [i if i < (n + 1) // 2 else 0 for i in range(n)]


def _cause(passed: Passed, call: Call, n: int) -> tuple[str, str] | None:
    """Return by what a call brings rows together, and what to do; None where it does not."""
    x = next(iter(call.tensors), None)
    if call.name in PAIRWISE and (shapes := broadcast_pair(call)) is not None:
        what = f"{call.name.strip('_')} broadcasts {shapes[0]} and {shapes[1]} over all pairs of rows"
        return what, "give both one shape with unsqueeze or squeeze"
    if call.name == "batch_norm" and call.argument(5, "training", False):
        what = "batch_norm uses the batch's own statistics in evaluation"
        return what, "training=self.training, or an nn.BatchNorm layer"
    is_over = call.name in _REDUCING and isinstance(x, Tensor) and x.ndim > 1 and x.shape[0] == n
    if is_over and isinstance(x, Tensor) and _over_first(call, x) and _reaches_rows(passed, call, n):
        what = f"{call.name} goes over axis 0 of {tuple(x.shape)}, the rows of the batch"
        return what, "reduce over the features: dim=1 or dim=-1"
    return None


def _goes_by_place(s: Subject, outputs: Tensor) -> bool:
    """Whether rows of one batch in another order get other answers, although none goes by what the others hold."""
    assert s.module_batch is not None
    given, n = s.module_batch.inputs, s.n
    parts = list(given.values()) if isinstance(given, dict) else list(given)
    if not all(isinstance(x, Tensor) and x.ndim and len(x) == n for x in parts):
        return False  # what is said of rows in a list would stay as it is
    try:
        order = torch.arange(n).roll(n // 3)
        rolled = take(Batch(given, None), n, order.tolist())
        again = None if rolled is None else _evaluated(s, rolled)
        other = _own_rows(s.forward(s.fresh(training=False, only_read=True), Batch(given, None), seed=1), n)
    except Exception:
        return False  # lengths that are to be sorted, for one
    if again is None or other is None or again.shape != outputs.shape or differs(other, outputs, tolerance=1e-3):
        return False  # or it is random
    moved = (again - outputs[order]).abs().amax(1) > 1e-2 * outputs.abs().max().clamp(min=1e-9)
    return float(moved.double().mean()) > 0.8  # where the first of a batch are served first, most are served


def _reaches_rows(passed: Passed, first: Call, n: int) -> bool:
    """Whether what a call gave goes into an output that has rows: not a term of the loss beside it."""
    touched = {id(x) for x in leaves(first.output)}
    for call in passed.trace.calls[passed.trace.calls.index(first) :]:
        if any(id(x) in touched for x in call.tensors):
            touched |= {id(x) for x in leaves(call.output)}
    ends = [(x, rows_of(x, n)) for x in leaves(passed.outputs)]
    is_varied = any(rows is not None and not bool((rows == rows[:1]).all()) for _, rows in ends)
    return any(
        id(x) in touched and not (is_varied and bool((rows == rows[:1]).all())) for x, rows in ends if rows is not None
    )


def _pairs_rows(call: Call, n: int) -> bool:
    tensors = [*call.tensors, *leaves(call.output)]
    return any(x.ndim and n in x.shape for x in tensors)


def _over_first(call: Call, x: Tensor) -> bool:
    dim = call.argument(1, "dim", call.kwargs.get("axis"))
    if call.name == "normalize":
        dim = call.argument(2, "dim", 1)
    if call.name in ("norm", "vector_norm"):
        dim = call.argument(2, "dim")
    if dim is None:
        return isinstance(call.output, Tensor) and call.output.ndim == 0
    found = dim if isinstance(dim, list | tuple) else [dim]
    return any(isinstance(i, int) and i % x.ndim == 0 for i in found)


def _evaluated(s: Subject, batch: Batch) -> Tensor | None:
    return _own_rows(s.forward(s.fresh(training=False, only_read=True), batch), s.n)


def _own_rows(outputs: Any, n: int) -> Tensor | None:
    some = (x for x in leaves(outputs) if x.is_floating_point() and x.shape != (n, n))  # and no row against each row
    found = [rows for x in some if (rows := rows_of(x, n)) is not None]
    varied = [rows for rows in found if not bool((rows == rows[:1]).all())]  # a term of the loss is one for all rows
    return torch.cat(varied or found, dim=1) if found else None


@rule("check-layout", "module", hides="future-leak")
def layout(s: Subject) -> Iterator[Finding]:
    """A view that stands for a permute: axes change places in the shape, and the numbers stay where they were."""
    if s.can_run:
        passed = s.any_pass
        has_order = any(isinstance(part, _READS_ALONG) for _, part, *_ in passed.trace.layers)
        ordered = has_order or any(call.name in _READING for call in passed.trace.calls)
        for call, source in _reshapes(passed):
            before = [size for size in source.shape if size > 1]
            after = [size for size in call.output.shape if size > 1]
            is_moved = before != after and sorted(before) == sorted(after) and len(before) > 1
            for size in set(before) & set(after):
                a, b = _prefix(source, size), _prefix(call.output, size)
                is_cut = size > 2 and size != s.n and a is not None and b is not None and a != b and call.is_inside
                if (
                    is_cut
                    and ordered
                    and source.is_floating_point()
                    and (is_moved or _is_named(source, call.output, size))
                ):
                    yield warning(
                        f"{call.name} makes {tuple(call.output.shape)} of {tuple(source.shape)}: the axis of "
                        f"{size} gets another place and the numbers do not move with it",
                        where=call.layer or "forward",
                        fix="permute or transpose moves an axis; view and reshape do not",
                    )
    yield from _data_layout(s)


def _is_named(source: Tensor, output: Tensor, size: int) -> bool:
    """Whether an axis that others are merged or cut round has lost its place: (N, H, T, D) as (N, T, H * D)."""
    merged, cut = (source, output) if source.ndim > output.ndim else (output, source)
    return (
        merged.ndim >= 4
        and merged.ndim == cut.ndim + 1
        and list(merged.shape).index(size) == 2
        and list(cut.shape).index(size) == 1
    )


def _data_layout(s: Subject) -> Iterator[Finding]:
    table = s.table
    for x in table.inputs if table else []:
        if _is_interleaved(x):
            c, length = x.shape[1:]
            yield warning(
                f"in the inputs {(c, length)} numbers go together that stand {c} apart, and not those of a channel: "
                f"they are {(length, c)}, read as {(c, length)}",
                where="the inputs",
                fix="transpose(1, 2), not reshape, makes (N, C, T) of (N, T, C)",
            )
        is_images = x.ndim == 4 and (x.is_floating_point() or x.dtype == torch.uint8)
        if not is_images or x.shape[1] not in (3, 4) or min(x.shape[2:]) < 8:
            continue
        x = x[:64].float()
        n, c, h, w = x.shape
        as_it_is = _roughness(x)
        read_anew = _roughness(x.reshape(n, h, w, c).permute(0, 3, 1, 2))
        if read_anew < 0.5 * as_it_is:
            yield warning(
                f"the images {(c, h, w)} are rough as they are ({as_it_is:.3g} between neighbours) and smooth read "
                f"as {(h, w, c)} ({read_anew:.3g})",
                where="the inputs",
                fix="permute(0, 3, 1, 2), not reshape, turns NHWC into NCHW",
            )


def _is_interleaved(x: Tensor) -> bool:
    """Whether two or three channels `(N, C, T)` hold numbers that run over channels first: so they go together."""
    if x.ndim != 3 or not x.is_floating_point() or x.shape[1] not in (2, 3) or x.shape[2] < 16 or len(x) < 16:
        return False
    x = x[:256]
    n, c, length = x.shape
    apart, alike = _by_turns(x), _by_turns(x.reshape(n, length, c).mT)
    return apart[0] > 2 * apart[1] and alike[0] < 1.3 * alike[1]


def _by_turns(x: Tensor) -> tuple[float, float]:
    """Return how far every C-th number of channels `(N, C, T)` spreads apart from the others, and shuffled ones do."""
    n, c, length = x.shape
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0))
    parts = (x[..., : length // c * c], x[..., order][..., : length // c * c])
    shares = [part.reshape(n, c, -1, c).double().std(2).clamp(min=1e-6).log().std(-1).mean() for part in parts]
    return float(shares[0]), float(shares[1])


def _roughness(x: Tensor) -> float:
    spread = float(x.std().clamp(min=1e-9))
    return float(x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()) / spread


@rule("check-future-leak", "module", hides="mask")
def future_leak(s: Subject) -> Iterator[Finding]:
    """A model that is to say what comes next, and sees it; or whose target is its input, unshifted."""
    if not s.has_loss or s.step is not None:
        return
    batch, n = s.batch, s.n
    y = batch.targets
    xs = leaves(batch.inputs)
    if not isinstance(y, Tensor) or y.ndim < 2:
        return
    alike = (x for x in xs if x.ndim == y.ndim and x.is_floating_point() == y.is_floating_point())
    x = next((x for x in alike if x.shape[:2] == y.shape[:2]), None)
    if x is None or x.shape != y.shape or y.shape[0] != n:
        return
    if y.is_floating_point() and y.ndim < 3 and not s.module_has_order:
        return
    passed = s.pass_over(s.fresh(training=False, only_read=True), batch)
    out = passed.outputs
    if not isinstance(out, Tensor) or out.ndim < 3:
        return
    if not isinstance(passed.loss, Tensor) or not passed.loss.requires_grad:
        return
    gradient: Tensor | None = torch.autograd.grad(passed.loss, out, allow_unused=True)[0]
    if gradient is None:
        return
    # where time runs: the second axis, or in (N, C, T) the last
    shares = {
        t: _share(x.narrow(t, 1, x.shape[t] - 1), y.narrow(t, 0, y.shape[t] - 1))
        for t in range(1, y.ndim)
        if x.shape[t] > 2
    }
    if not shares:
        return
    time = max(shares, key=lambda t: shares[t]) if y.is_floating_point() else 1
    equal, shifted, length = _share(x, y), shares[time], y.shape[time]
    axis = time if out.shape == y.shape else next((i for i in (1, 2) if out.shape[i] == length), None)
    if axis is None or out.shape[0] != n or length < 3:
        return
    felt = gradient.abs().sum(tuple(i for i in range(out.ndim) if i != axis)) > 0  # (T,)
    inside = equal > 0.99 and not bool(felt[-1])  # the criterion shifts by itself
    is_causal = not _sees_later(s, x, time, axis)
    if equal > 0.99 and not inside and not y.is_floating_point():
        what, fix = (
            ": inputs and targets are equal, and nothing is shifted",
            "inputs tokens[:, :-1], targets tokens[:, 1:]",
        )
        if not is_causal:
            what = ", and nothing is masked"
            fix = "for a language model inputs tokens[:, :-1] and targets tokens[:, 1:]; else mask tokens in the inputs"
        what = f"each position predicts the token that it gets as input{what}"
        yield error(what, fix=fix, by="identity") if is_causal else warning(what, fix=fix)
    if (shifted > 0.95 or inside) and not is_causal:
        yield error(
            "the targets are the inputs one step on, and outputs depend on later inputs, which contain the answer",
            fix="a causal mask (is_causal=True, or generate_square_subsequent_mask), and no bidirectional layer",
            by="trial",
        )


@rule("check-future-leak", "module", hides="mask")
def token_leak(s: Subject) -> Iterator[Finding]:
    """Logits of a position that change with the very token that they are to say, wherever the loss is computed."""
    if not s.has_loss or s.module_batch is None or (s.step is None and isinstance(s.train_pass.outputs, Tensor)):
        return
    calls = [call for call in s.train_pass.loss_calls if call.name in ("cross_entropy", "nll_loss")]
    for ids in leaves(s.module_batch.inputs) if len(calls) == 1 else []:
        is_words = ids.ndim == 2 and ids.shape[0] == s.n and ids.shape[1] > 3 and not ids.is_floating_point()
        seen = _placed(s, calls[0], ids) if is_words and num_different(ids) > 2 else None
        if seen is None:
            continue
        logits, first, targets = seen
        ignored = calls[0].argument(4, "ignore_index", -100)
        for ahead in (0, 1, 2):
            if not _is_told(ids[:, first:], targets, ahead, ignored):
                continue
            place = ids.shape[1] // 2 - first
            at = (place + first, place + first + ahead)  # of the logits, and of the token that they are to say
            if ahead == 2 and not _answers_to(s, ids, at[0], [at[1]], logits):
                yield warning(
                    "each position predicts the token two steps ahead: the targets are shifted twice",
                    fix="shift once, in the data or in the loss",
                )
            elif _answers_to(s, ids, at[0], [at[1]], logits):
                later = list(range(at[0] + 1, ids.shape[1]))
                if ahead == 0 and _answers_to(s, ids, at[0], later, logits):
                    return  # what is read as a whole may be to be said again, by an autoencoder
                yield error(
                    "the outputs of a position depend on the token that they should predict",
                    fix="a causal mask; decoder inputs tokens[:, :-1], targets tokens[:, 1:]",
                    by="trial",
                )
            return


@rule("check-input-unused", "module")
def answer_unseen(s: Subject) -> Iterator[Finding]:
    """Positions that are to repeat what the input had before them, and do not hang on that: it is out of reach."""
    if not s.has_loss or s.module_batch is None or s.n < 10:
        return
    calls = [call for call in s.train_pass.loss_calls if call.name in ("cross_entropy", "nll_loss")]
    for x in leaves(s.module_batch.inputs) if len(calls) == 1 else []:
        ids = x.reshape(s.n, -1) if x.ndim > 1 and len(x) == s.n and x.numel() == s.n * max(x.shape[1:]) else None
        seen = None if ids is None else _placed(s, calls[0], ids)
        if seen is None or ids is None or ids.shape[1] * seen[2].shape[1] > _MOST_PAIRS:
            continue
        logits, first, targets = seen
        if torch.equal(ids, targets):
            continue  # they are handed in to make the loss
        told = (targets[:, :, None] == ids[:, None]).all(0)  # (L, T)
        told &= torch.tensor([num_different(column) > 2 for column in targets.T])[:, None]
        places, before = told.tril(first).nonzero().T.tolist()
        if places and not _answers_to(s, x, [place + first for place in places], before, logits):
            back = max(place + first - b for place, b in zip(places, before, strict=True))
            yield warning(
                f"{len(set(places))} positions are to say what the input had up to {back} steps before, and do not "
                "hang on it",
                fix="look how far back a position sees: kernels and dilations, and on which side the padding is cut",
            )


_MOST_PAIRS = 100_000  # of positions in targets and inputs that are held beside each other

Placed = tuple[int, int]  # which leaf of the outputs holds the logits, and along which axis time runs in it


def _placed(s: Subject, call: Call, ids: Tensor) -> tuple[Placed, int, Tensor] | None:
    """Return where the logits of a loss are in the outputs, at which position they start, and the targets `(N, L)`."""
    n, length = ids.shape
    x, y = call.argument(0, "input"), call.argument(1, "target")
    if not isinstance(y, Tensor) or y.is_floating_point() or y.numel() % n or not isinstance(x, Tensor):
        return None
    targets = y.reshape(n, -1)
    first_of = x.transpose(1, 2) if x.ndim == 3 else x
    for i, out in enumerate(leaves(s.train_pass.outputs)):
        if not out.is_floating_point() or out.numel() % (n * length) or out.ndim not in (2, 3):
            continue
        by_time = _by_time(out, n, length)
        if by_time is None or by_time[0].shape[2] * targets.numel() != first_of.numel():
            continue
        taken = first_of.reshape(n, targets.shape[1], -1)
        for first in {0, length - targets.shape[1]} if targets.shape[1] <= length else set():
            if torch.equal(by_time[0][:, first : first + targets.shape[1]], taken):
                return (i, by_time[1]), first, targets
    return None


def _by_time(out: Tensor, n: int, length: int) -> tuple[Tensor, int] | None:
    """Return logits as `(N, T, C)`, and along which axis time ran; 0 where rows and steps are one axis."""
    if out.ndim == 2:
        return (out.reshape(n, length, -1), 0) if len(out) == n * length else None
    axis = next((axis for axis in (1, 2) if out.shape[axis] == length), None)
    return None if axis is None or len(out) != n else (out.transpose(1, axis), axis)


def _is_told(ids: Tensor, targets: Tensor, ahead: int, ignored: int) -> bool:
    """Whether targets, `(N, L)`, are the tokens of a sequence so many steps on."""
    width = min(ids.shape[1] - ahead, targets.shape[1])
    if width < 2:
        return False
    wanted, given = targets[:, :width], ids[:, ahead : ahead + width]
    known = (wanted != ignored) & (wanted >= 0)
    return int(known.sum()) >= 2 * len(ids) and float((wanted == given)[known].double().mean()) > 0.95


def _answers_to(s: Subject, ids: Tensor, place: int | list[int], changed: list[int], logits: Placed) -> bool:
    """Whether the logits of a position, or several, are others when the tokens at some positions are."""
    assert s.module_batch is not None
    other, flat = ids.clone(), (s.n, -1)
    other.view(flat)[:, changed] = ids.reshape(flat).roll(1, 0)[:, changed]
    found = []
    for tokens in (ids, other):
        inputs = map_leaves(lambda v, tokens=tokens: tokens if v is ids else v, s.module_batch.inputs)
        out = leaves(s.forward(s.fresh(training=False, only_read=True), Batch(inputs, None)))[logits[0]]
        by_time = _by_time(out, s.n, max(ids.shape[1:]))
        assert by_time is not None
        found.append(by_time[0][:, place])
    return differs(found[0], found[1])


def _share(a: Tensor, b: Tensor) -> float:
    same = torch.isclose(a, b) if b.is_floating_point() else a == b
    return float(same.double().mean())


def _sees_later(s: Subject, x: Tensor, time: int, axis: int) -> bool:
    """Whether outputs up to the middle change when inputs after it do; `axis` is where time runs in the outputs."""
    middle, length = x.shape[time] // 2, x.shape[time]
    late = x.clone()
    other = x.roll(1, 0).narrow(time, middle, length - middle).flip(time)
    late.narrow(time, middle, length - middle).copy_(other)
    assert s.module_batch is not None
    changed = Batch(map_leaves(lambda v: late if v is x else v, s.module_batch.inputs), None)
    module = s.fresh(training=False, only_read=True)
    a, b = s.forward(module, s.module_batch), s.forward(module, changed)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return differs(a.narrow(axis, 0, middle), b.narrow(axis, 0, middle))


@rule("check-mask", "module", hides="input-unused vanishing")
def mask(s: Subject) -> Iterator[Finding]:
    """A mask of padding that is turned round or not used: what stands in the padding moves the answer."""
    if not s.can_run or s.module_batch is None or s.n < 3:
        return
    n = s.n
    xs = leaves(s.module_batch.inputs)
    rows = (x for x in xs if x.ndim >= 2 and x.shape[0] == n and x.shape[1] > 2 and x.dtype != torch.bool)
    x = next((x for x in rows if num_different(x) > 2), None)
    if x is None:
        return
    length = x.shape[1]
    places = padding_of([x], n, length)
    passed = s.eval_pass
    if places is not None:
        for call in passed.trace.calls:
            found = _masked(call, n, length, places)
            if found:
                yield error(
                    f"the mask given to {call.name.strip('_')} covers the real positions and leaves the padding",
                    where=call.layer or "forward",
                    fix=found,
                    by="identity",
                )
        for name, part, _, kwargs in passed.trace.layers:
            given = kwargs.get("key_padding_mask", kwargs.get("src_key_padding_mask"))
            takes_mask = isinstance(part, nn.MultiheadAttention | nn.TransformerEncoder | nn.TransformerEncoderLayer)
            is_bool = takes_mask and isinstance(given, Tensor) and given.dtype == torch.bool
            if is_bool and given.shape == places.shape and bool((given == ~places).all()):
                yield error(
                    f"key_padding_mask of {type(part).__name__} is True at the real positions: True means leave out",
                    where=name,
                    fix="turn it round: key_padding_mask=(tokens == padding)",
                    by="identity",
                )
    masks = [
        m
        for m in xs
        if m.shape == x.shape[:2] and m is not x and len(m.unique()) == 2 and set(m.unique().tolist()) <= {0, 1}
    ]
    lengths = [
        m for m in xs if m.shape == (n,) and not m.is_floating_point() and int(m.max()) <= length and int(m.min()) >= 1
    ]
    if not masks and not lengths:
        return
    is_padding = places is not None or not masks
    if lengths and not masks:
        places = torch.arange(length) >= lengths[0][:, None]
    elif masks:
        flag = masks[0].bool()
        if places is not None and not bool((flag == ~places).all() or (flag == places).all()):
            return  # segments, say: what pads is known from the inputs, and this is no mask of it
        # what ends the rows: where the mask is off, or where it is on
        off_ends, on_ends = (bool((_ends(value) == value).all()) for value in (~flag, flag))
        is_padding = is_padding or off_ends or on_ends
        if places is None and off_ends and bool(flag[:, 0].all()):
            places = ~flag
        elif places is None and on_ends:
            places = flag
        elif places is None:
            places = ~flag if off_ends or float((~flag).double().mean()) <= 0.5 else flag
    if places is None or not bool(places.any()) or bool(places.all(1).any()):
        return
    places = places.to(x.device)
    if is_padding and num_different(x[places]) > 1:
        return  # as long as the mask by chance, and not what it is a mask of
    a = s.eval_outputs
    moved = [_after(s, x, where) for where in (places, ~places)]
    if moved[0] is None or moved[1] is None:
        return
    keep = None
    out = next(iter(leaves(a)), None)
    if out is not None and out.ndim >= 2 and out.shape[:2] == (n, length):
        keep = ~places
    if out is not None and out.ndim >= 3 and out.shape[0] == n and out.shape[2] == length and keep is None:
        return
    changed = [_differs_at(a, b, keep) for b in moved]
    if not is_padding:
        return  # positions that are drawn, or segments: no shape says what True means
    if changed[0]:
        what = "the outputs depend on the values at padded positions, "
        fix = "check whether the mask should be inverted, and that every layer over the positions uses it"
        if changed[1]:
            yield warning(f"{what}as if no mask were there", fix=fix)
        else:
            yield error(f"{what}and not on the values at real positions", fix=fix, by="trial")
    elif not changed[1] and keep is None:
        yield error("the outputs do not depend on the values at real positions", fix="invert the mask", by="trial")


def _ends(value: Tensor) -> Tensor:
    """Return where rows `(N, T)` of a mask are on up to their end."""
    return value.long().flip(1).cumprod(1).flip(1).bool()


def _after(s: Subject, x: Tensor, where: Tensor) -> Any:
    assert s.module_batch is not None
    fill = x.reshape(-1, *x.shape[2:])[
        torch.randperm(x.shape[0] * x.shape[1], generator=torch.Generator().manual_seed(4))
    ].view_as(x)
    if x.is_floating_point():
        fill = fill + x.std()
    spread = where.reshape(*where.shape, *([1] * (x.ndim - 2)))
    changed = torch.where(spread, fill, x)
    batch = Batch(map_leaves(lambda v: changed if v is x else v, s.module_batch.inputs), None)
    return s.forward(s.fresh(training=False, only_read=True), batch)


def _differs_at(a: Any, b: Any, keep: Tensor | None) -> bool:
    if keep is None:
        return differs(a, b)
    return any(
        differs(x[keep], y[keep]) for x, y in zip(leaves(a), leaves(b), strict=False) if x.shape[:2] == keep.shape
    )


def _masked(call: Call, n: int, length: int, places: Tensor) -> str:
    """Return what to do where a call masks the real positions of keys and leaves the padded ones."""
    if call.name in ("masked_fill", "masked_fill_"):
        given, value = call.argument(1, "mask"), call.argument(2, "value", 0)
        if not isinstance(value, int | float) or value > -1e3:
            return ""
        hidden = given
    elif call.name == "scaled_dot_product_attention":
        given = call.argument(3, "attn_mask")
        if not isinstance(given, Tensor) or given.dtype != torch.bool:
            return ""
        hidden = ~given
    elif call.name == "multi_head_attention_forward":
        given = call.kwargs.get("key_padding_mask")
        if not isinstance(given, Tensor):
            return ""
        hidden = given if given.dtype == torch.bool else given < -1e3
    else:
        return ""
    if (
        not isinstance(hidden, Tensor)
        or hidden.dtype != torch.bool
        or (hidden.shape[0], hidden.shape[-1]) != (n, length)
    ):
        return ""
    is_turned = float((hidden.reshape(n, -1, length)[:, 0] != places).double().mean()) > 0.97  # but for odd words
    return "invert the mask: it must cover the padding" if is_turned else ""
