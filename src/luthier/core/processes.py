"""Several processes that train one network: found, asked to agree, and added up so that their number moves no bit.

What a batch yields is added up over one binary tree whose leaves are the batch's shards. Who computes which shard, and
how many processes there are, changes nothing in that tree. The idea of shards that outlive the number of processes is
that of virtual nodes (Or et al., VirtualFlow, MLSys 2022).
"""

import atexit
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from torch import Tensor

from luthier.core.signs import EVERY_S, Signs, open_sockets, shut
from luthier.core.tree import flatten, unflatten
from luthier.errors import LuthierError, SettingError, TrainingError

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FILE = "LUTHIER_GROUP"  # where processes that `luthier train --processes` starts find each other
_WAIT_S = 3600.0  # for a process that reads its data, or runs the checks
_SHORT = 1 << 16  # bytes of a vector: giving it to all costs less than a second message

Node = tuple[int, int]  # level above the leaves, and place in it


class Group:
    """The processes of a run, of which this is one.

    Attributes:
        rank: This process, from 0.
        size: How many there are.
        group: That of torch.distributed.
    """

    def __init__(self, rank: int, size: int, signs: Signs, group: Any, sockets: set[int]) -> None:
        self.rank, self.size = rank, size
        self._signs, self.group, self._sockets = signs, group, sockets
        self._depth = 0
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def exchange(self, tree: Any) -> list[Any]:
        """Give plain values and tensors to all; return what each process gave, in the order of ranks."""
        content = _packed(tree)
        sizes = self.gathered(torch.tensor([len(content)])).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(content)] = content
        found = self.gathered(padded).view(self.size, -1)
        return [_unpacked(row[:size]) for row, size in zip(found, sizes, strict=True)]

    def from_first(self, tree: Any) -> Any:
        """Return what process 0 gives; what others give is not looked at."""
        import torch.distributed as dist

        content = _packed(tree) if self.rank == 0 else None
        size = torch.tensor([0 if content is None else len(content)])
        self._wait(dist.broadcast(size, 0, group=self.group, async_op=True))
        content = torch.empty(int(size), dtype=torch.uint8) if content is None else content
        self._wait(dist.broadcast(content, 0, group=self.group, async_op=True))
        return _unpacked(content)

    def added(
        self, trees: Sequence[Mapping[Node, Tensor]], likes: Sequence[Tensor], used: int, shards: int
    ) -> list[Tensor]:
        """Return the sums of all processes' vectors over the tree of shards, one for each kind of vector.

        Short ones are given to all at once and added up by each; of a long one each process adds up a slice.

        Args:
            trees: What this process has added up of its own shards, by `Tree`: of each kind vectors of one length.
            likes: A vector of each kind's length and type. The length is a multiple of the number of processes.
            used: How many shards of the batch hold samples; the others are left out.
            shards: How many there are.

        Returns:
            The sums, in memory that the next call takes again.
        """
        names = [sorted(_covering(*own_shards(rank, self.size, shards), used)) for rank in range(self.size)]
        is_short = [like.numel() * like.element_size() <= _SHORT for like in likes]
        sums: list[Tensor] = [*likes]
        if any(is_short):
            found = self._added_whole([i for i, short in enumerate(is_short) if short], trees, likes, names)
            for i, nodes in found.items():
                sums[i] = combined(nodes, used)
        for i, short in enumerate(is_short):
            if not short:
                sums[i] = self._added_by_slices(trees[i], likes[i], names, used)
        return sums

    def _added_whole(
        self,
        kinds: Sequence[int],
        trees: Sequence[Mapping[Node, Tensor]],
        likes: Sequence[Tensor],
        names: list[list[Node]],
    ) -> dict[int, dict[Node, Tensor]]:
        """Return the nodes of all processes for some kinds of vectors, by one message."""
        most, sizes = max(map(len, names)), [likes[i].numel() * likes[i].element_size() for i in kinds]
        sent = torch.zeros(most, sum(sizes), dtype=torch.uint8)
        for row, name in zip(sent, names[self.rank], strict=False):
            for place, i in zip(row.split(sizes), kinds, strict=True):
                place.copy_(trees[i][name].view(torch.uint8))
        taken = self.gathered(sent.view(-1)).view(self.size, most, -1)
        nodes: dict[int, dict[Node, Tensor]] = {i: {} for i in kinds}
        for rows, found in zip(taken, names, strict=True):
            for row, name in zip(rows, found, strict=False):
                for place, i in zip(row.split(sizes), kinds, strict=True):
                    nodes[i][name] = torch.empty_like(likes[i])
                    nodes[i][name].view(torch.uint8).copy_(place)
        return nodes

    def _added_by_slices(
        self, nodes: Mapping[Node, Tensor], like: Tensor, names: list[list[Node]], used: int
    ) -> Tensor:
        import torch.distributed as dist

        mine, chunk = names[self.rank], len(like) // self.size
        if len(mine) == 1:
            sent = nodes[mine[0]]
        else:
            rows_of = [nodes[name].view(self.size, chunk) for name in mine]
            sent = torch.stack(rows_of, dim=1).view(-1) if mine else like[:0]
        counts = [len(found) for found in names]
        taken = self._kept("taken", like, sum(counts) * chunk)
        into, out_of = [count * chunk for count in counts], [len(mine) * chunk] * self.size
        self._wait(dist.all_to_all_single(taken, sent, into, out_of, group=self.group, async_op=True))
        slices = dict(zip((name for found in names for name in found), taken.view(-1, chunk), strict=True))
        return self.gathered(combined(slices, used), self._kept("whole", like, len(like)))

    def _kept(self, use: str, like: Tensor, length: int) -> Tensor:
        """Return memory of an earlier call: fresh pages cost as much as what is sent in them."""
        found = self._memory.get((use, like.dtype))
        if found is None or len(found) < length:
            found = self._memory[use, like.dtype] = like.new_empty(length)
        return found[:length]

    def gathered(self, value: Tensor, out: Tensor | None = None) -> Tensor:
        """Return vectors of one length from all processes, one after the other."""
        import torch.distributed as dist

        gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its former name
        out = value.new_empty(self.size * len(value)) if out is None else out
        self._wait(gather(out, value, group=self.group, async_op=True))
        return out

    def swapped(self, value: Tensor, sent: list[int] | None = None, taken: list[int] | None = None) -> Tensor:
        """Give each process its slice of a vector; return what each gave to this one, one after the other.

        Args:
            value: On the CPU.
            sent: The lengths of the slices; None for equal ones.
            taken: The lengths of what comes.
        """
        import torch.distributed as dist

        out = value.new_empty(len(value) if taken is None else sum(taken))
        self._wait(dist.all_to_all_single(out, value, taken, sent, group=self.group, async_op=True))
        return out

    def _wait(self, work: Any) -> None:
        """Wait for the others, but not for one that has failed.

        Raises:
            TrainingError: a process has failed, or is gone; which, and why as far as it said so.
        """
        start = last = time.monotonic()
        try:
            while not work.is_completed():
                now = time.monotonic()
                time.sleep(0 if now - start < 0.005 else 0.0005)
                if now - last > EVERY_S:
                    last = now
                    if (words := self._signs.look()) is not None:
                        shut(self._sockets)  # else the work under way would keep this process from its end
                        raise _lost(words)
            work.wait()
        except RuntimeError as error:
            raise _lost(self._signs.failure() or "another process has ended") from error

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Tell the other processes where this one fails inside."""
        if self._depth == 0:
            self._signs.call = next(_calls)
        self._depth += 1
        try:
            yield
        except BaseException as error:
            if getattr(error, "code", None) != "training-process-lost":
                what = error.message if isinstance(error, LuthierError) else f"{type(error).__name__}: {error}"
                words = f"process {self.rank} on {socket.gethostname()}: {what}"
                self._signs.tell(words)
            _let_go()  # messages may be under way in it: all make a new one for their next call
            raise
        finally:
            self._depth -= 1


def _lost(words: str) -> TrainingError:
    return TrainingError(
        words, hint="correct what it reports, and resume the run: no step is repeated", code="training-process-lost"
    )


def own_shards(rank: int, size: int, shards: int) -> tuple[int, int]:
    """Return the first shard of a process, and that of the next one."""
    return rank * shards // size, (rank + 1) * shards // size


class Tree:
    """The vectors of shards that follow each other, added up as far as whole nodes of the binary tree go."""

    def __init__(self) -> None:
        self.nodes: dict[Node, Any] = {}
        self.free: list[Any] = []  # vectors that are added to others, whose memory can be taken again

    def add(self, shard: int, vector: Any) -> None:
        """Take in the vector of the next shard; it is changed later on."""
        level, place = 0, shard
        while place % 2 and (level, place - 1) in self.nodes:
            left = self.nodes.pop((level, place - 1))
            left += vector
            self.free.append(vector)
            vector, level, place = left, level + 1, place // 2
        self.nodes[level, place] = vector


def _covering(first: int, stop: int, used: int) -> list[Node]:
    tree = Tree()
    for shard in range(first, min(stop, used)):
        tree.add(shard, 0)
    return list(tree.nodes)


def combined(nodes: Mapping[Node, Tensor], used: int) -> Tensor:
    """Return the sum of nodes that cover the shards 0 to `used`; one without a neighbour goes up as it is.

    It is in the memory of one of them.
    """
    nodes, level = dict(nodes), 0
    while 1 << level < used:
        for place in sorted(place for at, place in nodes if at == level):
            if place % 2:
                continue
            left = nodes.pop((level, place))
            right = nodes.pop((level, place + 1), None)
            nodes[level + 1, place // 2] = left if right is None else left.add_(right)
        level += 1
    (root,) = nodes.values()
    return root


def _packed(tree: Any) -> Tensor:
    """Return plain values and tensors as bytes, without pickle."""
    document, tensors = flatten(tree, where="what is sent between processes", copy=True)
    values = list(tensors.values())
    facts = [[name, str(value.dtype).removeprefix("torch."), list(value.shape)] for name, value in tensors.items()]
    head = json.dumps([document, facts]).encode()
    parts = [torch.frombuffer(bytearray(len(head).to_bytes(8, "little") + head), dtype=torch.uint8)]
    return torch.cat([*parts, *(value.reshape(-1).view(torch.uint8) for value in values if value.numel())])


def _unpacked(content: Tensor) -> Any:
    start = 8 + int.from_bytes(bytes(content[:8].tolist()), "little")
    document, facts = json.loads(bytes(content[8:start].numpy()))
    tensors = {}
    for name, kind, shape in facts:
        made = torch.empty(shape, dtype=getattr(torch, kind))
        size = made.numel() * made.element_size()
        if size:
            made.view(-1).view(torch.uint8).copy_(content[start : start + size])
        tensors[name], start = made, start + size
    return unflatten(document, tensors)


_found: list[Group] = []
_calls = count(1)
_log = logging.getLogger("luthier")


def find_group() -> Group | None:
    """Return the processes that train with this one; None where it is alone.

    They are those of a process group that was initialised; or those of torchrun, of a launcher that sets its variables,
    or of `luthier train --processes`. Then a group of gloo is made.

    Raises:
        SettingError: the group cannot be made.
    """
    if not torch.distributed.is_available():
        return None
    import torch.distributed as dist
    from torch.distributed import distributed_c10d

    if not dist.is_initialized():
        _let_go()
        by_file, size = os.environ.get(_FILE), int(os.environ.get("WORLD_SIZE") or "1")
        if size < 2:
            return None
        if by_file is None and not all(os.environ.get(name) for name in _VARIABLES):
            raise SettingError(
                f"WORLD_SIZE is {size}, and no address is set where the processes can connect",
                hint="start them with torchrun or luthier train, or unset WORLD_SIZE to train in this process alone",
                code="setting-processes",
            )
        limit = timedelta(seconds=_WAIT_S)
        try:
            where: dict[str, Any] = {"init_method": "env://"}
            if by_file is not None:
                rank = int(os.environ["RANK"])
                meeting = dist.FileStore(by_file, size)  # type: ignore[attr-defined]
                where = {"store": meeting, "rank": rank, "world_size": size}
            dist.init_process_group("gloo", timeout=limit, **where)
        except (RuntimeError, ValueError, OSError) as error:
            raise SettingError(
                f"the processes cannot be joined: {error}",
                hint="start them with torchrun or luthier train, which set the address",
                code="setting-processes",
            ) from error
        atexit.register(_leave)
    if dist.get_world_size() < 2:
        return None
    if not _found:
        rank, size = dist.get_rank(), dist.get_world_size()
        store = distributed_c10d.PrefixStore("luthier", distributed_c10d._get_default_store())
        signs, others = Signs(rank, size, store), open_sockets()
        made = dist.new_group(backend="gloo", timeout=timedelta(seconds=_WAIT_S))
        signs.start()
        _found.append(Group(rank, size, signs, made, open_sockets().keys() - others.keys()))
        atexit.register(_let_go)
    return _found[0]


@contextmanager
def together(*, joins: bool = True) -> Iterator[Group | None]:
    """Give the processes that this one trains with, or None; where it fails inside, the others are told."""
    group = find_group() if joins else None
    if group is None:
        yield None
        return
    with group.failing_together():
        yield group


def _let_go() -> None:
    for group in _found:
        group._signs.end()
    _found.clear()


def _leave() -> None:
    import torch.distributed as dist

    with suppress(Exception):
        dist.destroy_process_group()
