"""`replay`: steps of a run of the command done again, to be looked at."""

import logging
from pathlib import Path
from typing import Any

from luthier.core.rng import kept_rng
from luthier.core.stepping import without_compiler
from luthier.errors import SettingError
from luthier.pipeline.train import fit_arguments, open_run
from luthier.store.checkpoint import checkpoints, read_checkpoint, step_of
from luthier.training.fit import make_run
from luthier.training.folder import compare_arguments
from luthier.training.record import read_record
from luthier.training.replay import Replay, find_not_finite, replay_steps, replay_validation
from luthier.training.settings import steps_per_epoch
from luthier.training.state import reading_checkpoint

_log = logging.getLogger("luthier")


@without_compiler()
def replay(
    run: str | Path,
    *,
    start: int | None = None,
    stop: int | None = None,
    network: str | None = None,
    trust_code: bool = False,
) -> Replay:
    """Repeat steps of a run of the command, from the nearest checkpoint, with the same bits. Nothing is written.

    Without `start` and `stop`: where the record ends in a loss that is not finite, the steps since the last checkpoint,
    to say what made it so; else those since the older of the checkpoints.

    Args:
        run: The run's folder.
        start: The first update to show, counted from 0.
        stop: The update to stop before.
        network: For a network from your own file, that file and class, `my_nets.py:Net`.
        trust_code: Run the file that the run names, without naming it.

    Raises:
        RunError: no such run, or its data or settings have changed.
        SettingError: no such steps.
    """
    folder, plan = open_run(run, network=network, trust_code=trust_code)
    record = read_record(folder / "record.jsonl")
    trees = _checkpoints(folder)
    last = max(trees, default=0)
    first = start if start is not None else min(trees, default=0) if stop is None else max(0, stop - 1)
    end = stop if stop is not None else max(last, first + 1)
    with kept_rng():
        live = make_run(**fit_arguments(plan)[0])
        most = plan.recipe.epochs * (steps_per_epoch(live.train, plan.recipe) or 0)
        if any(row["event"] == "end" for row in record):
            most = max(last, *(row["step"] for row in record.epochs))
        if not 0 <= first < end <= most:
            raise SettingError(
                f"steps {first} to {end} of {folder} cannot be repeated: it has {most}",
                hint="give start= below stop=, both counted from 0",
                code="setting-out-of-range",
            )
        with reading_checkpoint(folder):
            for tree in trees.values():
                compare_arguments(tree["arguments"], live)
        failed = next((row for row in reversed(record.rows) if row["event"] == "not-finite"), None)
        if failed is not None and start is None and stop is None:
            if failed["what"].startswith("valid_loss"):
                return replay_validation(live, trees, failed["epoch"])
            states = [trees[step] for step in sorted(trees, reverse=True)]
            return Replay(last, [], {}, find_not_finite(live, iter(states)))
        if any(row["event"] == "extended" for row in record) and not any(step <= first for step in trees):
            raise SettingError(
                f"{folder} got more epochs after its end, and the earlier checkpoints no longer exist",
                hint=f"replay from step {min(trees, default=0)} on",
                code="setting-out-of-range",
            )
        return replay_steps(live, trees, {row["epoch"]: row for row in record.epochs}, first, end)


def _checkpoints(folder: Path) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for path in checkpoints(folder / "checkpoints"):
        try:
            found[step_of(path)] = read_checkpoint(path)
        except (ValueError, OSError) as error:
            _log.warning("checkpoint %s is damaged: %s", path, error)
    return found
