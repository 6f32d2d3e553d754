"""A fifth set of programs by another hand, written without knowledge of the rules."""

from tests.checks import fifth_losses, fifth_more, fifth_train, fifth_zoo, fifth_zoo_more
from tests.checks.fifth_kit import PLANTED_FIFTH, ZOO_FIFTH

__all__ = ["PLANTED_FIFTH", "ZOO_FIFTH", "fifth_losses", "fifth_more", "fifth_train", "fifth_zoo", "fifth_zoo_more"]
