from typing import Any

import numpy as np
import polars as pl
import pytest

from luthier.core.schema import UNSEEN, Schema
from luthier.data.targets import encode_targets, read_targets, rows_with_target
from luthier.errors import DataError

rng = np.random.default_rng(0)


def learn(data: dict[str, Any], **settings: Any) -> tuple[pl.DataFrame, Schema]:
    frame = pl.DataFrame(data)
    task, targets = read_targets(frame, list(data), np.arange(frame.height), **settings)
    delimiter = settings.get("label_delimiter")
    column = next(iter(data)) if delimiter else None
    return frame, Schema(task=task, targets=targets, label_delimiter=delimiter, label_column=column)


def test_binary() -> None:
    frame, schema = learn({"y": ["no", "yes", " no"]})
    assert (schema.task, schema.targets[0].classes, schema.targets[0].counts) == ("binary", ("no", "yes"), (2, 1))
    encoded = encode_targets(frame, schema)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[0.0], [1.0], [0.0]]
    assert encode_targets(frame, schema, np.array([1, 0])).tolist() == [[1.0], [0.0]]
    assert learn({"y": [0, 1, 1]})[1].task == "binary"


def test_multiclass_in_the_order_of_numbers() -> None:
    frame, schema = learn({"y": ["10", "9", "2", "10"]})
    assert (schema.task, schema.targets[0].classes) == ("multiclass", ("2", "9", "10"))
    encoded = encode_targets(frame, schema)
    assert encoded.dtype == np.int64
    assert encoded.tolist() == [2, 1, 0, 2]
    assert learn({"y": ["b", "a", "C", "a"]})[1].targets[0].classes == ("C", "a", "b")


def test_a_class_is_the_same_in_any_file_format() -> None:
    _, schema = learn({"y": ["1.0", "2.0", "3.0"]})
    assert schema.targets[0].classes == ("1.0", "2.0", "3.0")
    assert encode_targets(pl.DataFrame({"y": [3, 1]}), schema).tolist() == [2, 0]
    _, schema = learn({"y": ["True", "False"]})
    assert schema.targets[0].classes == ("False", "True")
    assert encode_targets(pl.DataFrame({"y": [True, False]}), schema).tolist() == [[1.0], [0.0]]


def test_regression() -> None:
    values = rng.normal(1e6, 3, 500)
    frame, schema = learn({"y": values})
    assert schema.task == "regression"
    target = schema.targets[0]
    assert target.mean == pytest.approx(values.mean())
    encoded = encode_targets(frame, schema)
    assert encoded.dtype == np.float32
    assert encoded.shape == (500, 1)
    assert np.allclose(encoded[:, 0] * target.std + target.mean, values, atol=1e-5)
    assert learn({"y": np.arange(21)})[1].task == "regression"
    assert learn({"y": [0.5, 1, 2]})[1].task == "regression"
    assert learn({"y": np.arange(20)})[1].task == "multiclass"
    assert learn({"y": np.arange(20)}, task="regression")[1].task == "regression"
    assert learn({"y": values, "z": np.arange(500)})[1].num_outputs == 2


def test_multilabel_columns() -> None:
    frame, schema = learn({"a": ["yes", "no"], "b": ["0", "1"], "c": [True, True]})
    assert schema.task == "multilabel"
    assert [target.counts for target in schema.targets] == [(1, 1), (1, 1), (0, 2)]
    assert encode_targets(frame, schema).tolist() == [[1, 0, 1], [0, 1, 1]]


def test_multilabel_cells() -> None:
    frame, schema = learn({"tags": ["x; y", "", "y;y", "z;"]}, label_delimiter=";")
    assert [(target.name, target.counts) for target in schema.targets] == [("x", (3, 1)), ("y", (2, 2)), ("z", (3, 1))]
    assert encode_targets(frame, schema).tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert rows_with_target(frame, ["tags"], label_delimiter=";").tolist() == [0, 1, 2, 3]
    unseen: dict[str, int] = {}
    assert encode_targets(pl.DataFrame({"tags": ["x", "x;w"]}), schema, unseen=unseen).tolist() == [[1, 0, 0]] * 2
    assert unseen == {"w": 1}


def test_rows_with_every_target() -> None:
    frame = pl.DataFrame({"a": ["1", "NA", "3", None], "b": [1.0, 2.0, np.nan, 4.0]})
    rows = rows_with_target(frame, ["a"])
    assert rows.dtype == np.int64
    assert rows.tolist() == [0, 2]
    assert rows_with_target(frame, ["a", "b"]).tolist() == [0]


def test_only_training_rows_count() -> None:
    frame = pl.DataFrame({"y": ["a", "b", "a", "c"]})
    task, targets = read_targets(frame, ["y"], np.array([0, 1, 2]))
    assert (task, targets[0].classes, targets[0].counts) == ("binary", ("a", "b"), (2, 1))
    schema = Schema(task=task, targets=targets)
    unseen: dict[str, int] = {}
    assert encode_targets(frame, schema, unseen=unseen).tolist() == [[0], [1], [0], [UNSEEN]]
    assert unseen == {"c": 1}
    many = Schema(task="multiclass", targets=targets)
    more = pl.DataFrame({"y": ["d", "c", "d", "b"]})
    assert encode_targets(more, many, unseen=unseen).tolist() == [UNSEEN - 1, UNSEEN, UNSEEN - 1, 1]
    assert unseen == {"c": 2, "d": 2}


@pytest.mark.parametrize(
    ("data", "settings", "code", "words"),
    [
        ({"y": ["a"] * 5}, {}, "data-target-one-class", "'a' in all 5"),
        ({"y": [f"u{i}" for i in range(99)]}, {}, "data-target-identifier", "99 different values"),
        ({"y": [*map(str, rng.random(99)), "oops"]}, {}, "data-target-not-number", "'oops' in row 100"),
        ({"y": ["1", "x", "2"]}, {"task": "regression"}, "data-target-not-number", "'x' in row 2"),
        ({"y": [1.0, np.inf, 2.0]}, {}, "data-target-not-number", "inf in row 2"),
        ({"y": ["a", "b", "c"]}, {"task": "binary"}, "data-target-task", "3 classes"),
        ({"y": ["a", "b", "c"]}, {"task": "multilabel"}, "data-target-task", "not a yes/no column"),
        ({"y": ["a", "", "b"]}, {}, "data-target-missing", "'' in row 2"),
        ({"y": ["1", "0"], "z": ["1.5", "2.5"]}, {}, "data-target-mixed", "y is yes/no, z is numbers"),
        ({"y": ["a", "b"], "z": ["1.5", "2.5"]}, {}, "data-target-mixed", "y is text"),
        ({"y": ["a", "b"], "z": ["a", "b"]}, {"task": "binary"}, "data-target-mixed", "one target"),
        ({"y": ["", ""]}, {"label_delimiter": ";"}, "data-target-one-class", "no training row"),
        ({"y": ["a", "b"], "z": ["a", "b"]}, {"label_delimiter": ";"}, "data-target-task", "2 targets"),
        ({"y": ["a", "b"]}, {"label_delimiter": ""}, "data-target-task", "labels is"),
    ],
)
def test_bad_targets(data: dict[str, Any], settings: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        learn(data, **settings)
    assert caught.value.code == code
    assert words in caught.value.message


def test_a_target_that_is_not_there() -> None:
    frame = pl.DataFrame({"churned": ["", None]})
    for call in (lambda: rows_with_target(frame, ["chruned"]), lambda: read_targets(frame, ["chruned"], np.arange(2))):
        with pytest.raises(DataError, match="did you mean 'churned'") as caught:
            call()
        assert caught.value.code == "data-column-missing"
    with pytest.raises(DataError, match="no row has a value"):
        rows_with_target(frame, ["churned"])
    with pytest.raises(DataError, match="once"):
        read_targets(frame, ["churned", "churned"], np.arange(2))


def test_integer_classes_beyond_2_to_the_53_stay_apart() -> None:
    names = [str(2**60 + i) for i in range(3)]
    for cells in (names * 4, [int(name) for name in names] * 4):
        frame = pl.DataFrame({"y": cells})
        task, targets = read_targets(frame, ["y"], np.arange(12))
        assert (task, targets[0].classes) == ("multiclass", tuple(names))
        codes = encode_targets(frame, Schema(task=task, targets=targets))
        assert codes.tolist() == [0, 1, 2] * 4
