"""Near names: what the user probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest known name, or the list of known names where none is near.

    >>> did_you_mean("epoch", ["epochs", "lr"])
    "did you mean 'epochs'?"
    """
    names = [str(item) for item in known]
    lowered = {item.lower(): item for item in names}
    near = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    within = [item for item in names if len(name) > 2 and name.lower() in item.lower()]
    if 0 < len(within) <= 3:
        return f"did you mean {' or '.join(map(repr, within))}?"
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"known: {shown}" if names else "none is known"
