"""What validation rows make of answers: how often intervals and sets hold the truth, and how well probabilities fit.

    python -m benchmarks.answers --data FOLDER [--rows 4000] [--splits 3]

Over sets of `benchmarks.suite` (its packages in FOLDER): of numbers the share of test rows inside intervals of .9, of
classes inside sets of .9, and the calibration error without and with `calibrate`. Means over splits, 20 % to test.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import luthier
from benchmarks.suite import TABLES, load, split

NUMBERS = (
    "Ecdat/Computers", "ISLR/Wage", "carData/SLID", "fpp2/elecdemand", "modeldata/deliveries", "modeldata/ames",
    "plotnine/diamonds", "mosaicData/SaratogaHouses", "openintro/loans_full_schema", "robustbase/NOxEmissions",
)  # fmt: skip
CLASSES = (
    "Ecdat/Hdma", "modeldata/attrition", "modeldata/cells", "modeldata/credit_data", "modeldata/hpc_data",
    "modeldata/stackoverflow", "modeldata/wa_churn", "psych/bfi", "scikit-learn/digits", "xai/census",
)  # fmt: skip


def measure(name: str, data: Path, rows: int, seed: int, **given: Any) -> dict[str, Any]:
    """Train on a set and return the figures of its test rows."""
    train, test = split(load(name, data), None, rows, seed)
    target, is_class = TABLES[name].target, TABLES[name].is_class
    result = luthier.train(
        train,
        target=target,
        task=None if is_class else "regression",
        test_fraction=0.0,
        verbose=False,
        seed=seed,
        **given,
    )
    return result.evaluate(test)


def main() -> None:
    """Print a line a set, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--splits", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| set | held, of .9 | calibration error | with calibrate |\n|---|---|---|---|")
    held, errors = [], []
    for name in (*NUMBERS, *CLASSES):
        found = [measure(name, given.data, given.rows, seed, interval=0.9) for seed in range(given.splits)]
        held.append(np.mean([row["coverage"] for row in found]))
        if name in NUMBERS:
            print(f"| {name} | {held[-1]:.3f} | | |", flush=True)
            continue
        again = [measure(name, given.data, given.rows, seed, calibrate=True) for seed in range(given.splits)]
        errors.append([np.mean([row["calibration_error"] for row in rows]) for rows in (found, again)])
        print(f"| {name} | {held[-1]:.3f} | {errors[-1][0]:.4f} | {errors[-1][1]:.4f} |", flush=True)
    before, after = np.mean(errors, axis=0)
    print(f"| mean | {np.mean(held):.3f} | {before:.4f} | {after:.4f} |")


if __name__ == "__main__":
    main()
