"""All programs of the corpus: mistakes with their sound twins, and sound programs that look wrong."""

from tests.checks.field import FIELD
from tests.checks.fifth import PLANTED_FIFTH, ZOO_FIFTH
from tests.checks.fourth import PLANTED_FOURTH, ZOO_FOURTH
from tests.checks.pairs import PAIRS
from tests.checks.planted import PLANTED
from tests.checks.planted_data_loop import PLANTED_MORE
from tests.checks.planted_third import PLANTED_THIRD
from tests.checks.sixth import PLANTED_SIXTH, SOUND_SIXTH
from tests.checks.sound import SOUND
from tests.checks.zoo import ZOO
from tests.checks.zoo_more import ZOO_MORE
from tests.checks.zoo_third import ZOO_THIRD

EVERY_PAIR = [*PAIRS, *FIELD, *PLANTED, *PLANTED_MORE, *PLANTED_THIRD, *PLANTED_FOURTH, *PLANTED_FIFTH, *PLANTED_SIXTH]
EVERY_SOUND = [*SOUND, *ZOO, *ZOO_MORE, *ZOO_THIRD, *ZOO_FOURTH, *ZOO_FIFTH, *SOUND_SIXTH]
