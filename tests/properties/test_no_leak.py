"""With the split, the kinds and the epochs fixed and the last weights kept, no validation or test row moves a bit."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import luthier
from luthier.core.plain import to_plain
from luthier.core.schema import Schema
from luthier.metrics.metrics import metrics_for
from tests.properties.tables import Made, garbled, tables, write_csv

FEW = settings(max_examples=12)
NUMBERS = ["0", "-1.5", "1e9", "-1e12", "3e-300"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def design(source: Path, **given: Any) -> luthier.Plan:
    return luthier.design(source, epochs=2, widths=(4,), batch_size=8, patience=None, **given)


def trained(plan: luthier.Plan) -> tuple[Any, dict[str, bytes]]:
    """Return the Schema and the last weights."""
    torch.manual_seed(0)
    module = luthier.build(plan.blueprint)
    parts = plan.prepared.parts
    result = luthier.fit(
        module, parts["train"].source, parts["valid"].source, recipe=plan.recipe, metrics=metrics_for(plan.schema),
        restore_best=False,
    )  # fmt: skip
    assert len(result.record.epochs) == 2
    state = {name: value.numpy().tobytes() for name, value in module.state_dict().items()}
    return to_plain(plan.schema), state


def answers(schema: Schema, made: Made) -> dict[str, list[str]]:
    """Return what the targets of a changed row may be: a class that training knows, or any number."""
    if made.delimiter is not None:
        labels = [target.name for target in schema.targets]
        return {made.targets[0]: ["", *labels, made.delimiter.join(labels)]}
    return {target.name: list(target.classes) or NUMBERS for target in schema.targets}


def plan_or_none(source: Path, **given: Any) -> luthier.Plan | None:
    """Return the plan, or None where the table as drawn cannot be trained on."""
    try:
        return design(source, **given)
    except luthier.LuthierError as error:
        if error.code in ("data-kind-unmet", "data-target-one-class"):
            return None
        raise


@FEW
@given(tables(), st.booleans(), st.data())
def test_other_files_to_validate_and_test_on_move_no_bit(
    folder: Path, made: Made, kinds_are_said: bool, data: st.DataObject
) -> None:
    n = len(made)
    train, valid, test = range(n // 2), range(n // 2, n * 3 // 4), range(n * 3 // 4, n)
    given = {**made.call, "valid": str(folder / "valid.csv"), "test": str(folder / "test.csv")}
    if kinds_are_said:
        given["kind"] = made.kinds
    source = write_csv(folder / "train.csv", made.columns, train)
    write_csv(folder / "valid.csv", made.columns, valid)
    write_csv(folder / "test.csv", made.columns, test)
    plan = plan_or_none(source, **given)
    assume(plan is not None)
    assert plan is not None
    expected = trained(plan)

    changed = garbled(data.draw, made, range(n // 2, n), answers=answers(plan.schema, made))
    for name, rows in (("valid.csv", valid), ("test.csv", test)):
        chosen = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=20))  # also more rows or fewer
        write_csv(folder / name, dict(reversed(changed.items())), chosen)
    assert trained(design(source, **given)) == expected


@FEW
@given(tables(), st.sampled_from(["group", "time"]), st.booleans(), st.data())
def test_other_cells_in_the_rows_of_other_groups_or_times_move_no_bit(
    folder: Path, made: Made, split: str, as_numbers: bool, data: st.DataObject
) -> None:
    n = len(made)
    numbers = data.draw(st.permutations([i % 13 for i in range(n)]))
    made.columns["aside"] = [str(i) if as_numbers else f"2024-05-{i + 1:02d}" for i in numbers]
    path = write_csv(folder / "table.csv", made.columns)
    plan = plan_or_none(path, kind=made.kinds, **made.call, **{split: "aside"})
    assume(plan is not None)
    assert plan is not None
    parts = plan.prepared.parts
    expected = trained(plan)

    held_out = [int(row) for part in ("valid", "test") for row in parts[part].rows]
    write_csv(path, garbled(data.draw, made, held_out, answers=answers(plan.schema, made)))
    again = design(path, kind=made.kinds, **made.call, **{split: "aside"})
    for part, found in again.prepared.parts.items():
        assert found.rows.tolist() == parts[part].rows.tolist()
    assert trained(again) == expected


@FEW
@given(
    st.sampled_from([(8, 8), (1, 8, 8), (3, 6, 8), (6, 8, 3), (5,)]),
    st.sampled_from(["uint8", "float32", "bool"]),
    st.sampled_from(["classes", "numbers", "two numbers"]),
    st.integers(0, 2**32),
)
def test_other_arrays_to_validate_and_test_on_move_no_bit(
    folder: Path, shape: tuple[int, ...], dtype: str, targets: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def save(name: str, n: int, scale: float) -> str:
        noise = rng.random((n, *shape)) * scale
        x = noise > 0.5 if dtype == "bool" else noise.astype(dtype)
        y = rng.integers(0, 3, n) if targets == "classes" else rng.normal(3, scale, (n, 1 + (targets == "two numbers")))
        np.savez(folder / name, x=x, y=y)
        return str(folder / name)

    scales = {"uint8": (100, 255), "float32": (1, 1e6), "bool": (1, 4)}[dtype]
    source = save("train.npz", 30, scales[0])
    found = []
    for n, scale in ((9, scales[0]), (13, scales[1])):
        valid, test = save("valid.npz", n, scale), save("test.npz", n, scale)
        task: Any = "multiclass" if targets == "classes" else "regression"
        found.append(trained(design(Path(source), valid=valid, test=test, task=task)))
    assert found[0] == found[1]


def test_a_validation_target_beyond_float32_stops_no_training(folder: Path) -> None:
    made = {"x": [str(i % 7) for i in range(40)], "y": [str(i / 8) for i in range(40)]}
    source = write_csv(folder / "train.csv", made)
    write_csv(folder / "valid.csv", {"x": ["1", "2"], "y": ["1e300", "0.5"]})
    plan = design(source, target="y", valid=str(folder / "valid.csv"))  # without a warning of NumPy's
    assert trained(plan)
