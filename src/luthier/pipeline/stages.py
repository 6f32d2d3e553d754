"""The plans of a run that trains more than once: a network a fold, or one more on training and validation rows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from luthier.core.settings import FinishSettings
from luthier.pipeline.plan import Plan


def fold_folder(run: Path, fold: int) -> Path:
    """Return where a fold, counted from 0, trains."""
    return run / f"fold-{fold + 1}"


def refit_folder(run: Path) -> Path:
    """Return where the network trains on all rows."""
    return run / "refit"


def stage_folders(run: Path) -> list[Path]:
    """Return the folders inside a run's that networks are trained in."""
    return sorted(path for path in (*run.glob("fold-*"), refit_folder(run)) if (path / "checkpoints").is_dir())


def fold_plans(plan: Plan) -> Iterator[Plan]:
    """Yield a plan a fold: its rows are validated on, all others trained on, from a seed of its own."""
    folds, whole = plan.prepared.folds, plan.prepared.parts["train"]
    assert folds is not None
    assert plan.recipe.seed is not None
    for fold in range(int(folds.max()) + 1):
        train = whole.taken(np.flatnonzero(folds != fold), augment=plan.recipe.augment)
        parts = {"train": train, "valid": whole.taken(np.flatnonzero(folds == fold))}
        checks = plan.checks if fold == 0 else replace(plan.checks, check=False)
        seed = (plan.recipe.seed + fold) % 2**63
        prepared = replace(plan.prepared, parts=parts, folds=None)
        yield replace(
            plan, prepared=prepared, recipe=plan.recipe.updated(seed=seed), checks=checks, finish=FinishSettings()
        )


def refit_plan(plan: Plan, epochs: int) -> Plan:
    """Return the plan of the same network over training and validation rows, for so many epochs."""
    parts = plan.prepared.parts
    prepared = replace(plan.prepared, parts={"train": parts["train"].joined(parts["valid"])})
    recipe = plan.recipe.updated(
        epochs=epochs, max_steps=None, valid_every_steps=None, patience=None, monitor="valid_loss"
    )
    return replace(plan, prepared=prepared, recipe=recipe, finish=FinishSettings())
