"""All programs of the corpus: mistakes with their sound twins, and sound programs that look wrong.

Mistakes are in modules by what they are mistakes of, sound programs by what they are about. A name with `#` is a
report from the field: an issue of a public project or a question in a forum, turned into a program. Those were not used
to make the rules, so what is found of them alone shows how the rules do on mistakes they were not written for.
"""

from tests.checks import blind_spots, start, wider
from tests.checks.architecture import layers, mixing
from tests.checks.data import drawing, splits, values
from tests.checks.evaluation import keeping, scoring
from tests.checks.graph import gradients, parameters
from tests.checks.kit.program import PLANTED, SOUND
from tests.checks.losses import outputs, targets
from tests.checks.optimisation import settings, steps
from tests.checks.sound import (
    by_design,
    chance,
    generation,
    images,
    likeness,
    loops,
    loops_with_copies,
    series,
    tables,
    text,
    transfer,
)
from tests.checks.sound import data as sound_data
from tests.checks.sound import layers as sound_layers
from tests.checks.sound import losses as sound_losses
from tests.checks.sound import targets as sound_targets

MODULES = (
    outputs, targets, gradients, parameters, mixing, layers, start, values, splits, drawing, settings, steps, scoring,
    keeping, tables, images, text, series, generation, likeness, transfer, chance, sound_layers, sound_losses,
    sound_targets, sound_data, loops, loops_with_copies, by_design, blind_spots, wider,
)  # fmt: skip
EVERY_PAIR = sorted(PLANTED, key=lambda pair: "LGANDOE".index(pair.bug[0]))
EVERY_SOUND = SOUND
