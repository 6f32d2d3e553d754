"""State that a step or a callback holds, and no checkpoint keeps: a resumed run would go on without it."""

import dis
import hashlib
import inspect
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from luthier.core.rng import GENERATORS, generator_states
from luthier.training.state import Run

_log = logging.getLogger("luthier")
_MOST_ITEMS, _MOST_NUMBERS = 1000, 1 << 20  # of a list, and of a tensor, that are hashed
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_ALWAYS = ("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT", "JUMP_ABSOLUTE")


def warn_of_unkept(unkept: Iterable[str]) -> None:
    """Say what a checkpoint does not keep."""
    if unkept := list(unkept):
        _log.warning(
            "a checkpoint does not save %s: if training changes it, give its owner state_dict and load_state_dict, "
            "or a resumed run continues without it",
            ", ".join(unkept[:5]),
        )


def warn_of_changed(run: Run) -> None:
    """Say once, at the end of an epoch, what a checkpoint does not keep of that which looked as if it stayed."""
    changed = [words for words, (module, before) in run.still.items() if _changes(module) != before]
    run.still = {}
    warn_of_unkept(changed)


def unkept_state(run: Run) -> tuple[list[str], dict[str, tuple[nn.Module, int]]]:
    """Return what a step and callbacks hold that a checkpoint does not keep: modules that train, optimizers, tensors.

    What has a `state_dict` is kept by it, and so are the module's own parts, its criterion and its optimizer. A module
    without gradients may stay as it is: it is returned with how often its tensors have been changed so far.
    """
    known = [run.module, *run.module.modules(), *run.parameters, run.optimizer, run.criterion, *run.module.buffers()]
    kept = {id(item) for item in known}
    found: list[str] = []
    still: dict[str, tuple[nn.Module, int]] = {}
    for name, owner in run.named_owners():
        if hasattr(owner, "state_dict") or type(owner).__module__.startswith("luthier."):
            continue
        for inner, value in _held(owner):
            if not isinstance(value, nn.Module | Optimizer | Tensor) or id(value) in kept:
                continue
            words = f"{inner} of {name} (a {type(value).__name__})"
            if isinstance(value, nn.Module) and not any(p.requires_grad for p in value.parameters()):
                still[words] = value, _changes(value)
            else:
                found.append(words)
    return list(dict.fromkeys(found)), still


def _changes(module: nn.Module) -> int:
    return sum(0 if x.is_inference() else x._version for x in (*module.parameters(), *module.buffers()))


def _held(owner: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a function or an object holds by name: attributes, cells of a closure, bound arguments, globals."""
    if isinstance(owner, partial):
        yield from _held(owner.func)
        yield from [*enumerate(owner.args), *owner.keywords.items()]  # type: ignore[misc]
        return
    yield from getattr(owner, "__dict__", {}).items()
    for method in vars(type(owner)).values():  # a class within a function may reach what stands there
        if inspect.isfunction(method):
            yield from _held(method)
    code = getattr(owner, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, owner.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not set yet
                continue
        for used in code.co_names:
            if used in owner.__globals__:
                yield used, owner.__globals__[used]


class Seen:
    """What the variables of a loop held when the checkpoints before were written."""

    def __init__(self) -> None:
        self.before: dict[tuple[str, ...], tuple[dict[str, str], list[int]]] = {}
        self.named: set[str] = set()

    def changed(
        self, found: Mapping[str, str], place: tuple[str, ...], rounds: list[int], lasting: set[str]
    ) -> list[str]:
        """Return which variables differ from what they were at the same place of the loops, each once.

        Args:
            found: What `fingerprints` gave.
            place: The loops that are under way.
            rounds: Of the loops around the innermost, the number of each.
            lasting: Variables that go on from one of those rounds to the next. Others are made anew in each, as they
                are when a run goes on there.
        """
        before, then = self.before.get(place, ({}, rounds))
        self.before[place] = dict(found), rounds
        names = [name for name, value in found.items() if before.get(name, value) != value and name not in self.named]
        if rounds != then:
            names = [name for name in names if name.rpartition(" of ")[2] in lasting]
        self.named |= set(names)
        return names


def warn_of_changed_variables(names: Iterable[str]) -> None:
    """Say which variables of a loop change and are in no checkpoint."""
    for name in names:
        _log.warning(
            "the loop uses and changes %s, which is in no checkpoint: pass it to luthier.run by name, and read "
            "and set a number or a text as an attribute of the run",
            name,
        )


def warn_of_other(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Say which variables of a loop are others than when the checkpoint was written."""
    if other := [name for name, value in now.items() if before.get(name, value) != value]:
        _log.warning(
            "not as in the checkpoint: %s; this run may differ from one without a stop, unless you pass it to "
            "luthier.run by name",
            ", ".join(other[:5]),
        )


def fingerprints(frame: FrameType, first: FrameType, known: Iterable[Any]) -> dict[str, str]:
    """Return what the variables hold that a loop goes on with, by name: a hash of each.

    Args:
        frame: Where the loop stands.
        first: The frame that the run was entered in; those below it are not looked at.
        known: What the run keeps, and what else is left out.
    """
    kept = {id(item) for item in known}
    for item in known:
        if isinstance(item, nn.Module):
            kept |= {id(part) for part in (*item.modules(), *item.parameters(), *item.buffers())}
        elif isinstance(item, list | tuple | dict):
            kept |= set(map(id, item.values() if isinstance(item, dict) else item))
    found: dict[str, str] = {}
    for each in _frames(frame, first):
        for name in sorted(live_names(each.f_code, each.f_lasti)):
            value = each.f_locals.get(name, each.f_globals.get(name))
            held = [(name, value)]
            if inspect.isfunction(value):
                held = [(f"{inner} of {name}", item) for inner, item in _held(value) if not callable(item)]
            for words, item in held:
                if id(item) not in kept and (hashed := _hashed(item)) is not None:
                    found[words] = hashed
    return found


def names_gone_on_with(frame: FrameType, first: FrameType) -> frozenset[str]:
    """Return the variables that a loop goes on with, whatever they hold. Arguments as in `fingerprints`."""
    return frozenset().union(*(live_names(each.f_code, each.f_lasti) for each in _frames(frame, first)))


def _frames(frame: FrameType | None, first: FrameType) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = None if frame is first else frame.f_back


def _hashed(value: Any) -> str | None:
    """Return a hash of what may be state of a loop, or None of all else."""
    if isinstance(value, bool | int | float | str | bytes | complex):
        return repr(value)[:200]
    digest = hashlib.sha256()
    if isinstance(value, nn.Module):
        tensors = [*value.parameters(), *value.buffers()]
    elif isinstance(value, Optimizer):
        tensors = [x for state in value.state.values() for x in state.values() if isinstance(x, Tensor)]
    elif isinstance(value, Tensor):
        tensors = [value]
    elif isinstance(value, np.ndarray):
        tensors = [torch.from_numpy(value)] if value.dtype.kind in "biuf" else []
    elif isinstance(value, list | tuple | deque) and len(value) <= _MOST_ITEMS:
        parts = [_hashed(item) for item in value]
        return None if None in parts else hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    elif isinstance(value, GENERATORS):
        return hashlib.sha256(repr(generator_states({"": value})).encode()).hexdigest()[:16]
    else:
        return None
    for tensor in tensors:
        plain = tensor.detach()
        if plain.layout is torch.strided and plain.numel():
            every = max(1, plain.numel() // _MOST_NUMBERS)
            some = plain.reshape(-1)[::every].cpu().contiguous()
            digest.update(some.view(torch.uint8).numpy().data if not some.is_complex() else repr(some).encode())
    return digest.hexdigest()[:16]


@cache
def live_names(code: CodeType, place: int) -> frozenset[str]:
    """Return the variables that code reads, from an instruction on, before it writes them.

    The classic backward analysis over its bytecode (Aho, Lam, Sethi, Ullman 2006, section 9.2.5), but that a loop
    within is taken to have a round at least: what each of its rounds writes is not carried on from before it.
    """
    steps = list(dis.get_instructions(code))
    at = {step.offset: number for number, step in enumerate(steps)}
    reads, writes = zip(*map(_names_of, steps), strict=True)
    after: list[list[int]] = []
    for number, step in enumerate(steps):
        jumps = [at[step.argval]] if step.opcode in _JUMPS and step.argval in at else []
        ends = step.opname.startswith(("RETURN", "RAISE", "RERAISE")) or step.opname in _ALWAYS
        then = number + 1 + (number + 2 < len(steps) and steps[number + 1].opname == "FOR_ITER")
        after.append([*jumps, *([] if ends or then == len(steps) else [then])])
    live: list[set[str]] = [set() for _ in steps]
    is_changing = True
    while is_changing:
        is_changing = False
        for number in range(len(steps) - 1, -1, -1):
            new = set(reads[number]) | (set().union(*(live[n] for n in after[number])) - set(writes[number]))
            if new != live[number]:
                live[number], is_changing = new, True
    return frozenset(live[at[place]]) if place in at else frozenset()


def _is_text(value: Any) -> bool:
    return type(value) is str


def _names_of(step: dis.Instruction) -> tuple[list[str], list[str]]:
    """Return the variables that an instruction reads, and those that it writes."""
    name = step.opname
    names = list(step.argval) if isinstance(step.argval, tuple) else [step.argval]
    if not any(kind in name for kind in ("_FAST", "_NAME", "_DEREF", "_GLOBAL")) or not all(map(_is_text, names)):
        return [], []
    if name.count("FAST") == 2:  # two in one, from 3.13 on
        first, second = names
        is_store = [part.strip("_").startswith("STORE") for part in name.split("FAST")[:2]]
        pairs = list(zip((first, second), is_store, strict=True))
        written = [n for n, stored in pairs if stored]
        return [n for i, (n, stored) in enumerate(pairs) if not stored and not (i and n in written)], written
    if name.startswith(("STORE", "DELETE")):
        return [], names
    return ([], []) if name.startswith("IMPORT") else (names, [])
