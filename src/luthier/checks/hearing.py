"""What is heard of a loop while it runs: calls of torch that tell losses, backward passes and clipping."""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from luthier.checks.rules.criterion import PAIRWISE, broadcast_pair
from luthier.checks.subject import LOSSES
from luthier.checks.tracing import Call, Trace
from luthier.core.tape import Tape


class Listener(Tape):
    """Hear the calls of torch that tell what a loop does: losses, backward, clipping."""

    def __init__(self, owner: Any) -> None:
        super().__init__()
        self.owner = owner
        self.trace = Trace()
        self.is_far = False
        self.inside = 0
        self.root: Any = None
        self.loss: Any = None
        self.last_loss: Call | None = None
        self.in_clip = False

    def forget(self) -> None:
        """Let go of what was kept."""
        self.trace, self.root, self.loss, self.last_loss = Trace(), None, None, None

    def heard(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Tell the owner what a call says of the loop."""
        if self.is_far:
            return func(*args, **kwargs)
        is_wanted = self._try(self._before, name, args, sys._getframe(2))  # of who called
        answer = func(*args, **kwargs)
        if is_wanted:
            self._try(self._after, Call(name, args, kwargs, answer, "", False, "", func))
        return answer

    def _try(self, look: Any, *given: Any) -> Any:
        try:
            return look(*given)
        except Exception as fault:
            self.owner.give_up(fault)
            return False

    def _before(self, name: str, args: Any, caller: Any) -> bool:
        """Hear that a call is made; return whether what it gives is wanted."""
        if name == "backward" and args and isinstance(args[0], Tensor):
            self.loss = args[0] if self.loss is None else self.loss
            self.owner.heard_backward(args[0], self.last_loss)
            self.last_loss = None
            return False
        clipping = _is_clip(caller)
        if clipping is not None and not self.in_clip:
            self.owner.heard_clip(clipping.get("max_norm"))
        self.in_clip = clipping is not None
        return not self.owner._looked or name in LOSSES or name in PAIRWISE

    def _after(self, call: Call) -> None:
        """Hear what a call gave."""
        owner = self.owner
        call.layer, call.is_inside = "forward" if self.inside else "", bool(self.inside)
        if call.name in LOSSES and not self.inside:
            self.last_loss = call
        if not owner._looked:
            self.trace.keep(call)
        elif call.name in PAIRWISE and not self.inside and owner.steps < 50:
            shapes = broadcast_pair(call)
            if shapes is not None:
                owner.warning(
                    "check-metric",
                    f"{call.name.strip('_')} compares shapes {shapes[0]} and {shapes[1]}, each answer with every "
                    "target",
                    fix="give both the same shape first",
                )


def _is_clip(frame: Any) -> dict[str, Any] | None:
    """Return what a clipping of gradients was given, where one is under way."""
    found = None
    for _ in range(8):
        if frame is None:
            break
        if frame.f_code.co_filename.endswith("clip_grad.py"):
            found = frame.f_locals
            if isinstance(found.get("max_norm"), int | float):
                return {"max_norm": float(found["max_norm"])}
        frame = frame.f_back
    if found is None:
        return None
    args = found.get("args", ())  # of what is wrapped round it
    most = args[1] if len(args) > 1 else found.get("kwargs", {}).get("max_norm")
    return {} if most is None else {"max_norm": float(most)}


def norm_of(optimizer: Optimizer) -> float:
    """Return the norm over all gradients of an optimizer's parameters."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    return float(torch.stack([g.detach().norm() for g in dense]).norm()) if dense else 0.0
