"""Near names: what the user probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from luthier.errors import DataError

_LONGEST = 200  # characters of a name that are looked at


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the nearest known name, or the list of known names where none is near.

    >>> did_you_mean("epoch", ["epochs", "lr"])
    "did you mean 'epochs'?"
    """
    name, names = name[:_LONGEST], [str(item)[:_LONGEST].replace("\n", "\\n") for item in known]
    lowered = {item.lower(): item for item in names}
    near = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]!r}?"
    within = [item for item in names if len(name) > 2 and name.lower() in item.lower()]
    if 0 < len(within) <= 3:
        return f"did you mean {' or '.join(map(repr, within))}?"
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"known: {shown}" if names else "none is known"


def check_name(name: str, what: str) -> None:
    """Refuse the name of a file or folder that no text file can hold.

    Raises:
        DataError: it is not UTF-8, or holds a NUL.
    """
    if "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise DataError(
            f"the name of {what} {name} is not UTF-8, or holds a NUL",
            hint="rename it",
            code="data-name-encoding",
        )


def near_file(path: Path) -> str:
    """Return, of a file that is not there, which of its folder's was probably meant."""
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r}"
    names = sorted(item.name for item in path.parent.iterdir() if item.name[0] != ".")
    return did_you_mean(path.name, names) if names else f"{str(path.parent)!r} is an empty folder"
