"""Columns and blocks of rows on two threads: NumPy and polars let go of the interpreter while they reckon."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_WORKERS = 2
_MANY_ROWS = 1 << 14


def each(function: Callable[[_Item], _Result], items: Iterable[_Item], *, rows: int) -> list[_Result]:
    """Return what a function makes of each item, in order; on two threads where a table has many rows.

    >>> each(abs, [-2, 3], rows=100_000)
    [2, 3]
    """
    if rows <= _MANY_ROWS:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(function, items))


def ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, Callable[[], _Result]]]:
    """Yield items and calls that return what a function makes of each, or raise; on two threads, a few items ahead.

    >>> [(item, made()) for item, made in ahead(abs, [-2, 3])]
    [(-2, 2), (3, 3)]
    """
    waiting: deque[tuple[_Item, Callable[[], _Result]]] = deque()
    with ThreadPoolExecutor(_WORKERS) as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item).result))
            if len(waiting) > _WORKERS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
