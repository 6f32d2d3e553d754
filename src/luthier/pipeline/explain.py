"""Explain one answer of a run: its training rows, read again, are the background."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from luthier.errors import SettingError
from luthier.pipeline.train import open_run, refuse_other_rows
from luthier.serving.explaining import MOST_BACKGROUND, Explanation
from luthier.serving.model import load


def explain_row(
    model: str | Path,
    row: Any,
    *,
    background: Any = None,
    of: str | None = None,
    network: str | None = None,
    options: Any = None,
) -> Explanation:
    """Return which columns moved the answer of a model for one row, as `Model.explain` does.

    Args:
        model: A model's file, or the folder of a run.
        row: As in `Model.explain`.
        background: Likewise; of a run's folder the training rows, which are read again, where it is None.
        of: As in `Model.explain`.
        network: For a network from your own file: `FILE.py:CLASS`.
        options: How to read a CSV.

    Raises:
        SettingError: a file of a model alone, without a background.
        RunError: the run's data has changed.
    """
    loaded = load(model, network=network)
    if background is None:
        if not (Path(model) / "run.toml").is_file():
            raise SettingError(
                f"{model} has no rows, and to explain an answer you need other rows to compare with",
                hint="pass them with background=, or give the folder of a run of luthier train",
                code="setting-missing",
            )
        folder, plan = open_run(model, **({} if network is None else {"network": network}))
        refuse_other_rows(plan, folder)
        part = plan.prepared.parts["train"]
        rows = np.unique(np.linspace(0, len(part.rows) - 1, MOST_BACKGROUND).round().astype(np.int64))
        some = part.taken(rows).source
        background = tuple(next(iter(some.batches([torch.arange(len(rows))], 0, 0))).inputs)
    return loaded.explain(row, background, of=of, options=options)
