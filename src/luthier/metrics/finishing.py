"""What validation rows say of a trained network's answers: a temperature, thresholds, intervals."""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from luthier.core.answering import Answering
from luthier.core.schema import UNSEEN, Schema, Task
from luthier.core.settings import FinishSettings

_TEMPERATURES = np.exp(np.linspace(math.log(0.1), math.log(10.0), 201))


def measure_answering(
    outputs: Tensor, targets: Tensor, schema: Schema, settings: FinishSettings
) -> tuple[Answering, list[str]]:
    """Return how outputs become answers, and what was found in words, from rows that were not trained on.

    Args:
        outputs: Logits or standardised numbers, as the network gives them.
        targets: As the criterion takes them.
        schema: The task.
        settings: What is asked for.
    """
    outputs = outputs.double().reshape(len(outputs), -1)
    if schema.task != "regression":
        known = (targets > UNSEEN).reshape(len(targets), -1).all(dim=1)
        outputs, targets = outputs[known], targets[known]
    answering, words = Answering(), []
    if settings.calibrate:
        answering, said = _calibrated(outputs, targets, schema.task)
        words.append(said)
    outputs = outputs / answering.temperature
    if settings.threshold is not None:
        columns = zip(outputs.sigmoid().T.numpy(), targets.reshape(len(targets), -1).T.numpy(), strict=True)
        found = tuple(threshold_of(settings.threshold, chances, true > 0) for chances, true in columns)
        answering = replace(answering, thresholds=found)
        shown = ", ".join(f"{value:.3g}" for value in found[:5])
        words.append(f"yes at a probability of {shown} or more, by {settings.threshold} on {len(outputs):,} rows")
    if settings.interval is not None:
        answering, said = _with_intervals(answering, outputs, targets, schema, settings.interval)
        words.append(said)
    return answering, words


def _calibrated(outputs: Tensor, targets: Tensor, task: Task) -> tuple[Answering, str]:
    """Return the temperature of the least log loss, where it helps on rows that it was not found on, or 1."""
    halves = [slice(start, None, 2) for start in (0, 1)]
    kept = math.inf  # one row has no other half
    if len(outputs) > 1:
        kept = sum(
            _log_losses(outputs[other], targets[other], task, temperature_of(outputs[half], targets[half], task))
            for half, other in (halves, halves[::-1])
        )
    plain = sum(_log_losses(outputs[half], targets[half], task, 1.0) for half in halves)
    if not kept < plain:
        return Answering(), "probabilities are not changed: no temperature improves them"
    found = temperature_of(outputs, targets, task)
    loss = [_log_losses(outputs, targets, task, value) / len(outputs) for value in (1.0, found)]
    return Answering(temperature=found), f"temperature {found:.3g}: log loss {loss[0]:.4g} to {loss[1]:.4g} on its rows"


def temperature_of(outputs: Tensor, targets: Tensor, task: Task) -> float:
    """Return the temperature of the least log loss, between .1 and 10 (Guo et al. 2017): the loss has one minimum."""
    losses = [_log_losses(outputs, targets, task, float(value)) for value in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _log_losses(outputs: Tensor, targets: Tensor, task: Task, temperature: float) -> float:
    logits = outputs / temperature
    if task == "multiclass":
        return float(functional.cross_entropy(logits, targets.reshape(-1), reduction="sum"))
    true = targets.double().reshape(len(targets), -1)
    return float(functional.binary_cross_entropy_with_logits(logits, true, reduction="sum"))


def threshold_of(rule: str, chances: NDArray[np.float64], true: NDArray[np.bool_]) -> float:
    """Return the probability above which the answer is yes: the middle between two rows where the rule is best.

    Args:
        rule: `f1`; `youden` (recall of both classes together); `cost=C`, where a missed yes costs C false ones; or a
            number, which is returned.
        chances: Of yes, a row each, `(N,)`.
        true: Whether it is yes.
    """
    if rule not in ("f1", "youden") and not rule.startswith("cost="):
        return float(rule)
    order = np.argsort(-chances, kind="stable")
    scores = chances[order]
    hits = np.append(0, np.cumsum(true[order]))  # of yes among the first k
    k, positives = np.arange(len(hits)), int(true.sum())
    false = k - hits
    if rule == "f1":
        gain = 2 * hits / np.maximum(k + positives, 1)
    elif rule == "youden":
        gain = hits / max(positives, 1) - false / max(len(true) - positives, 1)
    else:
        gain = -(float(rule.removeprefix("cost=")) * (positives - hits) + false)
    cuts = np.concatenate([[1.0], (scores[:-1] + scores[1:]) / 2, [0.0]])
    is_cut = np.append(np.append(True, scores[1:] < scores[:-1]), True)  # between equal scores there is none
    return float(cuts[np.where(is_cut, gain, -np.inf).argmax()])


def rows_for(level: float) -> int:
    """Return how many rows an interval of this level needs at least."""
    return math.ceil(level / (1 - level) - 1e-9)


def _with_intervals(
    answering: Answering, outputs: Tensor, targets: Tensor, schema: Schema, level: float
) -> tuple[Answering, str]:
    """Add intervals or sets by split conformal prediction (Vovk et al. 2005; Lei et al. 2018; Sadinle et al. 2019)."""
    place = math.ceil((len(outputs) + 1) * level - 1e-9) - 1
    if schema.task == "regression":
        errors = (outputs - targets.reshape(len(targets), -1)).abs().sort(dim=0).values
        margins = tuple(errors[place].tolist())
        return replace(answering, level=level, margins=margins), f"intervals of {level:g} from {len(outputs):,} rows"
    if schema.task == "binary":
        yes = outputs.sigmoid()
        chances, true = torch.cat([1 - yes, yes], dim=1), targets.long().reshape(-1)
    else:
        chances, true = outputs.softmax(dim=1), targets.reshape(-1)
    misses = (1 - chances.gather(1, true[:, None])[:, 0]).sort().values
    least = float(1 - misses[place])
    said = f"a class is in a row's set from a probability of {least:.3g} on: {level:g} of {len(outputs):,} rows"
    return replace(answering, level=level, least_probability=least), said
