"""Several processes under one loop of one's own: each works on its rows of a batch, and gradients are added up.

They run the same loop in the same order. A batch is dealt out by rows; the gradient that `backward` leaves is that of
the whole batch, in each process, and so are the weights that a step makes of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.batch import Batch
from luthier.core.machine import machine
from luthier.core.processes import Group, own_shards
from luthier.core.rng import get_rng_state, kept_rng, seed_generators, seed_sample, set_rng_state
from luthier.core.version import VERSION
from luthier.data.feeds import Feed, LoaderFeed, Share
from luthier.errors import SettingError
from luthier.metrics.evaluation import LogMeans
from luthier.store.bundle import load_weights, module_weights
from luthier.training.parts import Parts
from luthier.training.shards import flat_gradient, refuse_spread

_OWN_DRAWS = 0x7A9C31  # keeps what processes draw apart from what samples draw


class Joint:
    """The processes that run one loop, of which this is one.

    Attributes:
        group: The processes.
        wishes: What each wished when gradients were last added up; None where that is said already.
        loader_rng: The state of the global generators that loaders draw from, alike in each process.
    """

    def __init__(self, group: Group, parts: Parts) -> None:
        self.group, self._parts = group, parts
        self.wishes: list[Any] | None = None
        self.loader_rng: dict[str, Any] = {}
        modules = nn.ModuleList(parts.modules.values())
        self._parameters = [p for p in modules.parameters() if p.requires_grad]
        self._buffers = [b for b in modules.buffers() if b.is_floating_point()]
        self._apart: set[Tensor] = set()  # parameters whose gradient is of this process alone
        self._is_adding = False
        self._hooks = [p.register_post_accumulate_grad_hook(self._note_apart) for p in self._parameters]
        self._hooks += [o.register_step_pre_hook(self._before_step) for o in parts.optimizers.values()]

    def close(self) -> None:
        """Let go of the parameters and optimizers."""
        for hook in self._hooks:
            hook.remove()

    def make_alike(self, seed: int, data: Mapping[str, Any]) -> None:
        """Give all processes the modules of the first, and generators that draw apart; refuse other parts and data.

        Raises:
            SettingError: parts, data or machines differ; which, and where. Or a part spreads the work itself.
        """
        for name, part in self._parts.given.items():
            refuse_spread(part if isinstance(part, nn.Module) else nn.Module(), part if name in data else None)
        mine = {**self._parts.describe(), **data, "seed": seed, "luthier": VERSION, **machine()}
        first, *others = self.group.exchange(mine)
        for rank, other in enumerate(others, 1):
            for name in {**first, **other}:
                if first.get(name) != other.get(name):
                    raise SettingError(
                        f"{name} is {other.get(name)} in process {rank}, and {first.get(name)} in process 0",
                        hint="start every process with the same program, data, torch and number of threads",
                        code="setting-processes",
                    )
        weights = self.group.from_first({n: module_weights(m, copy=False) for n, m in self._parts.modules.items()})
        for name, module in self._parts.modules.items():
            load_weights(module, weights[name], where="process 0")
        with kept_rng():
            seed_sample(seed ^ _OWN_DRAWS, 0, 0)
            self.loader_rng = get_rng_state()
        if rank := self.group.rank:  # the first draws what it would draw alone
            seed_sample(seed ^ _OWN_DRAWS, 0, rank)
            seed_generators(self._parts.generators, seed ^ _OWN_DRAWS, 0, rank)

    def share(self) -> Share:
        """Return this process's rows of each batch."""
        return Share(rows=lambda count: own_shards(self.group.rank, self.group.size, count))

    def batches(self, feed: Feed, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield this process's rows of the batches of a pass.

        Raises:
            SettingError: a batch has fewer samples than there are processes.
        """
        batches = feed.batches(number, start, self.share())
        for batch in self.alike(batches) if isinstance(feed, LoaderFeed) else batches:
            if (batch.whole or 0) < self.group.size:
                raise SettingError(
                    f"a batch has {batch.whole} samples, and {self.group.size} processes share it",
                    hint="choose drop_last=True, or another batch_size",
                    code="setting-processes",
                )
            yield batch

    def alike(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield batches of a loader, which draws in each process what it draws in the others."""
        while True:
            own = get_rng_state()
            set_rng_state(self.loader_rng)
            try:
                batch = next(batches, None)
            finally:
                self.loader_rng = get_rng_state()
                set_rng_state(own)
            if batch is None:
                return
            yield batch

    def agreed(self, wish: list[Any]) -> list[list[Any]]:
        """Return the wishes of all processes, as they were when gradients were last added up, or as they are now."""
        found, self.wishes = self.wishes, None
        return self.group.exchange(wish) if found is None else found

    def backward(self, loss: Tensor, count: float, wish: list[Any], **options: Any) -> None:
        """Add the gradient of the whole batch to each parameter: the mean over the processes, weighted by counts.

        Floating buffers, such as running statistics, become the mean over the processes.
        """
        earlier = [p.grad for p in self._parameters]
        for p in self._parameters:
            p.grad = None
        self._is_adding = True
        try:
            (loss * count).backward(**options)
        finally:
            self._is_adding = False
        given = "".join("01"[p.grad is not None] for p in self._parameters)
        answers = self.group.exchange([count, given, wish])
        total = sum(answer[0] for answer in answers)
        self.wishes = [answer[2] for answer in answers]
        some = [p for i, p in enumerate(self._parameters) if any(answer[1][i] == "1" for answer in answers)]
        kinds = sorted({p.dtype for p in some}, key=str)
        by_kind = [[flat_gradient(p) for p in some if p.dtype == kind] for kind in kinds]
        values = [b.detach().double().reshape(-1).cpu() for b in self._buffers]
        vectors = [self._even(flat) for flat in [*by_kind, *([values] if values else [])]]
        sums = self.group.added(
            [{(0, self.group.rank): v} for v in vectors], [torch.empty_like(v) for v in vectors], self.group.size,
            self.group.size,
        )  # fmt: skip
        for kind, added in zip(kinds, sums, strict=False):
            added /= total
            own = [p for p in some if p.dtype == kind]
            sizes = [p.numel() for p in own]
            for p, piece in zip(own, added[: sum(sizes)].split(sizes), strict=True):
                p.grad = piece.view_as(p).to(p.device, copy=True)
        if values:
            sizes = [b.numel() for b in self._buffers]
            with torch.no_grad():
                for b, piece in zip(self._buffers, sums[-1][: sum(sizes)].split(sizes), strict=True):
                    b.copy_((piece / self.group.size).view_as(b))
        for p, before in zip(self._parameters, earlier, strict=True):
            if before is not None:
                p.grad = before if p.grad is None else before + p.grad

    def _even(self, pieces: list[Tensor]) -> Tensor:
        """Return one vector, with zeros after it, so that each process adds up as much."""
        length = sum(map(len, pieces))
        return torch.cat([*pieces, pieces[0].new_zeros(-length % self.group.size)])

    def means(self, logged: LogMeans) -> LogMeans:
        """Return what all processes logged, as one."""
        merged, found = LogMeans(), self.group.exchange(logged.state_dict())
        names = list(dict.fromkeys(name for sums in found for name in sums))
        merged.load_state_dict(
            {
                name: {key: sum(sums[name][key] for sums in found if name in sums) for key in ("total", "count")}
                for name in names
            }
        )
        return merged

    def _note_apart(self, parameter: Tensor) -> None:
        if not self._is_adding:
            self._apart.add(parameter)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, options: Any) -> None:
        """Refuse a step on gradients of this process alone.

        Raises:
            SettingError: a gradient was not added up.
        """
        own = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(p in self._apart for p in own):
            raise SettingError(
                f"{type(optimizer).__name__} uses the gradients of this process only, so the processes would get "
                "different weights",
                hint="call run.backward(loss) instead of loss.backward()",
                code="setting-processes",
            )
        self._apart.clear()
