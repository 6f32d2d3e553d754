"""How the outputs of a trained network become answers, as far as that was measured on validation rows."""

import math
from dataclasses import dataclass

from luthier.core.plain import check_types


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What was measured after training, on rows that the network was not trained on.

    Attributes:
        temperature: Logits are divided by it (Guo et al. 2017); it moves no decision but for labels with thresholds.
        thresholds: Of two classes, or of each label, the probability above which the answer is yes; none: one half.
        level: The share of new rows whose interval, or set of classes, holds the true answer; None: there are none.
        margins: Of numbers, half the width of each target's interval, in the network's own numbers.
        least_probability: Of classes, the probability from which on a class is in a row's set.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()
    level: float | None = None
    margins: tuple[float, ...] = ()
    least_probability: float | None = None

    def __post_init__(self) -> None:
        check_types(self, where="the answers")
        numbers = (self.temperature, *self.margins)
        shares = (*self.thresholds, *(value for value in (self.level, self.least_probability) if value is not None))
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not self.temperature:
            raise ValueError("its temperature and margins are no numbers from 0")
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("its thresholds and levels are no shares")

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """The thresholds as logits; None for one half."""
        return tuple(map(_logit, self.thresholds)) or None


def _logit(share: float) -> float:
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    return math.log(share / (1 - share))
