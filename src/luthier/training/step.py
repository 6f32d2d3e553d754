"""One update, as the textbook has it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_

from luthier.checks.static import check_shapes
from luthier.core.batch import Batch
from luthier.core.machine import autocast
from luthier.metrics.criteria import Measured
from luthier.metrics.evaluation import LogMeans
from luthier.metrics.objective import Passed
from luthier.training.shards import backward_shards
from luthier.training.state import Run
from luthier.training.trying import try_metrics


def train_step(run: Run, batches: Iterable[Batch]) -> int:
    """Do one update over the batches that make it (one, but for `accumulate`); return how many there were.

    The mean loss of each batch goes to `run.state.loss`, detached, still on its device.
    """
    if run.closure is not None:
        return _closure_step(run, [batch.to(run.device) for batch in batches])
    done, over, size = 0, run.recipe.accumulate, run.recipe.micro_size
    for batch in batches:
        if done == 0:
            run.clear_gradients()
        batch = batch.to(run.device)
        if run.shards > 1:
            measured = backward_shards(run, batch)
        elif size is None or len(batch) <= size:
            measured = forward(run, batch)
            run.backward(scaled(run, measured.loss / over if over > 1 else measured.loss))
        else:
            measured = backward_in_parts(run, batch, size)
        run.state.loss.add(measured)
        done += 1
    if done:
        clip(run)
        update(run)
    return done


def _closure_step(run: Run, batches: Sequence[Batch]) -> int:
    """Do one update of an optimizer that evaluates the loss of its batches as often as it likes."""
    state, over = run.state, run.recipe.accumulate
    seen: list[Tensor] = []
    if not batches:
        return 0

    @torch.enable_grad()
    def evaluate() -> Tensor:
        run.clear_gradients()
        logged, total = state.logged, torch.zeros((), device=run.device)
        if seen:  # the first evaluation is the update's loss; the others are of weights on trial
            state.logged = LogMeans()
        for batch in batches:
            measured = forward(run, batch)
            run.backward(measured.loss / over)
            total = total + measured.loss.detach() / over
            if not seen:
                state.loss.add(measured)
        state.logged = logged
        seen.append(total)
        clip(run)
        return total

    if run.closure == "again":
        evaluate()
    state.lr = run.schedule.lr
    state.highest_lr = max(state.highest_lr, state.lr)
    run.optimizer.step(evaluate)  # type: ignore[arg-type]  # torch's own take a loss as a tensor too
    finish_update(run)
    return len(batches)


def backward_in_parts(run: Run, batch: Batch, size: int) -> Measured:
    """Add the gradient of a batch, of `size` samples at a time, by each part's share of the count; return its loss."""
    parts = batch.micro(size)
    # Each part's count must be known before its gradient is taken, so a part is weighted by its count here and the
    # whole by their sum after: k micro-batches give the gradient of one big batch, whatever their sizes.
    earlier = [(p, p.grad) for p in run.parameters if p.grad is not None]  # of the batches before, in one update
    for parameter, _ in earlier:
        parameter.grad = None
    total: Tensor | float = 0.0
    losses: list[Tensor] = []
    is_sum = False
    for part in parts:
        measured = forward(run, part)
        total, is_sum = total + measured.count, measured.is_sum
        if isinstance(measured.count, Tensor) and not is_sum and not measured.count > 0:
            continue  # every target is ignored, or weighs nothing: no mean, no gradient (a GPU is waited for here)
        weighted = measured.loss if is_sum else measured.loss * measured.count
        run.backward(scaled(run, weighted))
        losses.append(weighted.detach())
    loss = torch.stack(losses).sum() if losses else torch.zeros((), device=run.device)
    over: Tensor | float = 1.0 if is_sum or (batch.weights is not None and not losses) else total
    for parameter in run.parameters:
        if parameter.grad is not None:
            parameter.grad /= over * run.recipe.accumulate
    for parameter, gradient in earlier:
        parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad
    return Measured(loss / over, total, is_sum)


def forward(run: Run, batch: Batch) -> Measured:
    """Return the loss of a batch and the number it is a mean over."""
    if run.recipe.precision == "float32":
        return _measured(run, batch)
    with autocast(run.device, run.recipe.precision):
        return _measured(run, batch)


def _measured(run: Run, batch: Batch) -> Measured:
    if run.is_tried and run.objective.step is None and not run.hears_forward:
        return run.objective.measure(batch.forward(run.module), batch)
    if run.state.global_step == 0 and run.objective.step is None and run.check:
        outputs = batch.forward(run.module)
        run.find(check_shapes(run.criterion, run.objective.compared(outputs), batch.targets))
        passed = Passed(run.objective.measure(outputs, batch), outputs, batch.targets)
    else:
        passed = run.objective(run.module, batch)
    if run.state.global_step == 0 and not run.is_tried:
        run.is_tried = True
        try_metrics(run, passed, batch)
    if passed.log:
        run.state.logged.add(passed.log, passed.count)
    if run.hears_forward:
        run.passed = passed
        run.tell("on_forward_end")
        run.passed = None
    return passed.measured


def clip(run: Run) -> None:
    """Clip the gradients as the recipe says."""
    recipe = run.recipe
    if run.scaler is not None:
        run.scaler.unscale_(run.optimizer)
    if recipe.clip_norm is not None and run.sharding is not None:
        norm = run.sharding.norm()
        if norm is not None:
            clip_grads_with_norm_(run.every, recipe.clip_norm, norm)
    elif recipe.clip_norm is not None:
        clip_grad_norm_(run.every, recipe.clip_norm)
    if recipe.clip_value is not None:
        clip_grad_value_(run.every, recipe.clip_value)


def update(run: Run) -> None:
    """Step, and move the schedule and the average of the weights on."""
    state = run.state
    if state.global_step < run.schedule.warmup_steps:
        with run.schedule.warmed(state.global_step):
            _step(run)
    else:
        _step(run)
    finish_update(run)


def finish_update(run: Run) -> None:
    """Move on after an update: the schedule, the average of the weights, the count."""
    run.schedule.end_step(run.global_step + 1)
    if run.move_average is not None:
        run.move_average()
    run.state.global_step += 1


def _step(run: Run) -> None:
    run.state.lr = run.schedule.lr
    run.state.highest_lr = max(run.state.highest_lr, run.state.lr)
    if run.scaler is None:
        run.do_update()
    else:
        run.scaler.step(run.optimizer)
        run.scaler.update()


def scaled(run: Run, loss: Tensor) -> Tensor:
    """Return what backward is called on: the loss, scaled where the precision asks for it."""
    return loss if run.scaler is None else run.scaler.scale(loss)
