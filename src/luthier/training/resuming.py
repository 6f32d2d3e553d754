"""What a checkpoint of a loop of one's own holds, and how its run goes on from it."""

import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from luthier.core.machine import machine
from luthier.core.rng import get_rng_state, set_rng_state
from luthier.errors import RunError, SettingError
from luthier.metrics.evaluation import LogMeans
from luthier.training.folder import warn_of_machine
from luthier.training.parts import describe_data
from luthier.training.state import reading_checkpoint
from luthier.training.unkept import fingerprints, warn_of_changed_variables

if TYPE_CHECKING:
    from luthier.training.custom import CustomRun


def snapshot(run: "CustomRun", frame: FrameType | None) -> dict[str, Any]:
    """Return all that must survive a kill, as nested plain values and tensors; those of the parts are the live ones.

    Args:
        run: It stands between two rounds of a loop.
        frame: The body of that loop, whose variables are looked at; None at the end.

    Raises:
        SettingError: data has changed, which no checkpoint keeps.
    """
    state, joint = run._state, run._joint
    found = {} if frame is None else variables_of(run, frame)
    around = state.levels[1:-1]
    lasting = {name for level in around for name in level.lasting or ()}
    kinds, rounds = tuple(level.kind for level in state.levels), [level.index for level in around]
    if run._is_first:
        warn_of_changed_variables(run._seen.changed(found, kinds, rounds, lasting))
    start = state.levels[1].start if len(state.levels) > 1 else time.monotonic()
    feed = state.levels[-1].feed
    tree = {
        "custom": 1,
        "parts": run._parts.states(),
        "gradients": run._parts.gradients(),
        "described": run._parts.describe(),
        "data": data_of(run),
        "seed": state.seed,
        "levels": [
            {"kind": level.kind, "index": level.index, "done": level.done, "number": level.number}
            for level in state.levels
        ],
        "feed": None if feed is None else feed.state_dict(),
        "streams": [stream._state() for stream in run._streams],
        "steps": state.steps,
        "counted": state.counted,
        "passes": state.passes,
        "epoch": state.epoch,
        "epoch_seconds": time.monotonic() - start,
        "logged": state.logged.state_dict(),
        "figures": state.figures,
        "best": run.best._state(),
        "locals": found,
        "record": run.record.text,
        "rng": get_rng_state(),
        "machine": machine(),
        "is_done": run.is_done,
    }
    if joint is not None:
        own = {name: tree[name] for name in ("locals", "rng", "logged")}
        tree["others"] = joint.group.exchange({**own, "parts": run._parts.own_states()})[1:]
        tree["loader_rng"] = joint.loader_rng
    return tree


def own_share(run: "CustomRun", tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree as this process has to put it back.

    Raises:
        RunError: other processes wrote it.
    """
    before, now = len(tree.get("others", ())) + 1, run.world_size
    if before != now:
        raise RunError(
            f"{run.folder} is a run of {before} processes, and there are {now}: each has states of its own in it",
            hint=f"start {before}, or choose a new folder",
            code="run-arguments-differ",
        )
    if not run.rank:
        return tree
    own = tree["others"][run.rank - 1]
    return {**tree, **own, "parts": {**tree["parts"], **own["parts"]}}


def put_back(run: "CustomRun", tree: dict[str, Any]) -> None:
    """Put back what `snapshot` gave, but for the loops, which are gone through until they stand where they stood."""
    state = run._state
    with reading_checkpoint(run.folder):
        run._parts.put_back(tree["parts"])
        run._parts.put_gradients_back(tree.get("gradients", {}))
        run.best._put_back(tree["best"])
        for stream, kept in zip(run._streams, tree["streams"], strict=False):
            stream._put_back(kept)
        state.steps, state.passes, state.epoch, state.counted = (
            tree[name] for name in ("steps", "passes", "epoch", "counted")
        )
        state.logged, state.figures = LogMeans(), dict(tree["figures"])
        state.logged.load_state_dict(tree["logged"])
        run.record.rewrite(tree["record"])
        if run._joint is not None:
            run._joint.loader_rng = tree["loader_rng"]
        set_rng_state(tree["rng"])


def recognise(run: "CustomRun", tree: dict[str, Any]) -> None:
    """Refuse to go on with other parts, data or another seed, and say what else differs.

    Raises:
        RunError: something differs that moves a bit; or it is a run of `fit`.
    """
    if "custom" not in tree:
        raise RunError(f"{run.folder} is a run of fit or train", hint="choose a new folder", code="run-folder-taken")
    before, now = tree["described"], run._parts.describe()
    other = [f"{name} was {before.get(name)} and is {now.get(name)}" for name in {**before, **now}
             if before.get(name) != now.get(name)]  # fmt: skip
    data = data_of(run)
    other += [f"the data {name} has changed" for name in data if tree["data"].get(name, data[name]) != data[name]]
    if run._given_seed is not None and run._given_seed != tree["seed"]:
        other.append(f"seed was {tree['seed']} and is {run._given_seed}")
    if other:
        raise RunError(
            f"{run.folder} was made with other arguments: {'; '.join(other[:6])}",
            hint="make the same call to continue it, or choose a new folder",
            code="run-arguments-differ",
        )
    warn_of_machine(tree["machine"])


def data_of(run: "CustomRun") -> dict[str, Any]:
    """Return what the data is.

    Raises:
        SettingError: it is no more what it was, so that it is state of the loop.
    """
    data = {name: describe_data(run._parts.given[name]) for name in run._parts.data}
    for name, now in data.items():
        if run._data.setdefault(name, now) != now:
            raise SettingError(
                f"{name} changes while the loop runs, but is passed as data, which no checkpoint saves",
                hint="tensors of one length in a tuple or dict are data; pass each one that changes by its own name",
                code="setting-wrong-type",
            )
    return data


def variables_of(run: "CustomRun", frame: FrameType) -> dict[str, str]:
    """Return fingerprints of the variables that the body goes on with, less what the run keeps."""
    return fingerprints(frame, run._entered, [*run._parts.given.values(), run, *run._streams])
