"""The estimators of scikit-learn: its own checks, its tools around them, and what pickle keeps."""

import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    parametrize_with_checks,
)
from torch import nn

import luthier
from luthier.errors import SettingError
from luthier.sklearn import LuthierClassifier, LuthierRegressor

EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a row twice and a row of weight 2 fall into other batches and "
    "another split, so training takes another path",
    "check_no_attributes_set_in_init": "settings become attributes, and no signature lists them all; without any it "
    "passes: see below",
    "check_methods_subset_invariance": "networks compute in float32, whose rounding depends on the batch: up to 2e-7",
}
TABLE = pd.DataFrame(
    {
        "size": np.arange(80) % 13 + 0.5,
        "city": ["Bonn", "Köln", None, "Essen"] * 20,
        "day": pd.date_range("2024-01-01", periods=80),
    }
)
LABELS = pd.Series(np.where(TABLE["size"] > 6, "big", "small"), name="kind")


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LuthierClassifier(random_state=0, epochs=100), LuthierRegressor(random_state=0, epochs=100)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
@pytest.mark.filterwarnings("default")
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("cls", [LuthierClassifier, LuthierRegressor])
def test_without_settings_nothing_but_parameters_is_set(cls: Any) -> None:
    check_no_attributes_set_in_init(cls.__name__, cls())
    check_parameters_default_constructible(cls.__name__, cls())


def make(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 16), nn.ReLU(), nn.Linear(16, num_outputs))


def test_classes_keep_their_type_and_order_in_frames_with_text_dates_and_gaps() -> None:
    fitted = LuthierClassifier(epochs=60, random_state=0).fit(TABLE, LABELS)
    assert fitted.classes_.tolist() == ["big", "small"]
    assert fitted.score(TABLE, LABELS) > 0.9
    assert fitted.predict_proba(TABLE).sum(axis=1) == pytest.approx(np.ones(80))
    assert fitted.model_.schema is not None
    assert fitted.model_.schema.targets[0].name == "kind"
    # the model by itself answers with the user's own classes
    assert (fitted.model_.predict(TABLE) == fitted.predict(TABLE)).all()
    columns = list(fitted.model_.schema.targets[0].classes)
    chances = fitted.model_.predict_proba(TABLE)[:, [columns.index(name) for name in fitted.classes_]]
    assert np.array_equal(chances, fitted.predict_proba(TABLE))


def test_a_frame_of_polars_answers_as_one_of_pandas() -> None:
    frame = pl.from_pandas(TABLE)
    of_pandas, of_polars = (
        LuthierClassifier(epochs=5, random_state=0).fit(some, LABELS).predict_proba(some) for some in (TABLE, frame)
    )
    assert np.array_equal(of_pandas, of_polars)


def test_an_input_may_be_called_as_the_target() -> None:
    frame = TABLE.rename(columns={"size": "kind"})
    assert LuthierClassifier(epochs=60, random_state=0).fit(frame, LABELS).score(frame, LABELS) > 0.9


def test_pipelines_searches_and_scores() -> None:
    X, y = load_iris(return_X_y=True)
    piped = make_pipeline(StandardScaler().set_output(transform="pandas"), LuthierClassifier(epochs=30, random_state=0))
    assert cross_val_score(piped, X, y, cv=3).mean() > 0.85
    search = GridSearchCV(piped, {"luthierclassifier__lr": [1e-9, 1e-2]}, cv=2).fit(X, y)
    assert search.best_params_ == {"luthierclassifier__lr": 1e-2}
    made = ColumnTransformer(
        [("scaled", StandardScaler(), ["size"])], remainder="passthrough", verbose_feature_names_out=False
    )
    mixed = make_pipeline(made.set_output(transform="polars"), LuthierClassifier(epochs=60, random_state=0))
    assert mixed.fit(TABLE, LABELS).score(TABLE, LABELS) > 0.9


def test_settings_are_parameters_and_a_wrong_name_is_named() -> None:
    made = LuthierRegressor(epochs=3, lr=0.1)
    assert made.get_params() == {"module": None, "random_state": None, "epochs": 3, "lr": 0.1}
    assert clone(made).set_params(dropout=0.1).get_params()["dropout"] == 0.1
    with pytest.raises(SettingError, match="no setting 'epoch'") as found:
        LuthierRegressor(epoch=3).fit([[1.0], [2.0]], [1.0, 2.0])
    assert "'epochs'" in found.value.hint


@pytest.mark.parametrize("module", [None, make], ids=["designed", "own"])
def test_weights_of_rows_reach_the_loss(module: Any) -> None:
    X = np.zeros((200, 1), dtype=np.float32)
    X[:, 0] = np.tile([0.0, 1.0], 100)
    y, weights = np.repeat([0, 1], 100), np.repeat([9.0, 1.0], 100)
    fitted = LuthierClassifier(module, epochs=30, lr=0.01, random_state=0).fit(X, y, sample_weight=weights)
    chances = fitted.predict_proba(X)
    assert chances[:, 0].mean() == pytest.approx(0.9, abs=0.05)
    torch.manual_seed(123)  # the weights of a module that a function makes follow from random_state
    again = LuthierClassifier(module, epochs=30, lr=0.01, random_state=0).fit(X, y, sample_weight=weights)
    assert np.array_equal(again.predict_proba(X), chances)


def test_a_module_of_the_users_own_is_copied_and_equals_fit() -> None:
    X, y = load_iris(return_X_y=True)
    torch.manual_seed(0)
    module = make(4, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted = LuthierClassifier(module, epochs=5, lr=0.01, random_state=3).fit(X, y)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    seed = int(np.random.RandomState(3).randint(2**31))
    luthier.fit(
        module, (X.astype(np.float32), y), criterion="CrossEntropyLoss", optimizer="AdamW", epochs=5, lr=0.01, seed=seed
    )
    for name, value in module.state_dict().items():
        assert torch.equal(fitted.model_.module.state_dict()[name], value), name


def test_several_numbers_are_predicted_at_once() -> None:
    X, _ = load_diabetes(return_X_y=True)
    y = np.stack([X[:, 0] * 100, X[:, 1] * 10], axis=1)
    for module in (None, make):
        fitted = LuthierRegressor(module, epochs=30, lr=0.01, random_state=0).fit(X, y)
        assert fitted.predict(X[:7]).shape == (7, 2)
        assert fitted.score(X, y) > 0.5


class Named(pickle.Unpickler):
    """Reads a pickle, and keeps what it imports by name."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.found: set[str] = set()

    @property
    def ours(self) -> set[str]:
        return {name for name in self.found if name.startswith("luthier")}

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("module", [None, make, make(3, 2)], ids=["designed", "callable", "instance"])
def test_pickle_and_joblib_keep_a_bundle_and_no_code(module: Any, tmp_path: Path) -> None:
    X = TABLE if module is None else np.random.default_rng(0).normal(size=(80, 3))
    fitted = LuthierClassifier(module, epochs=3, random_state=0).fit(X, LABELS)
    raw = pickle.dumps(fitted)
    if module is None:
        names = Named(io.BytesIO(raw))
        names.load()
        assert {name.partition(".")[0] for name in names.found} <= {
            "luthier",
            "numpy",
            "copyreg",
            "builtins",
            "_codecs",
        }
        assert names.ours == {"luthier.sklearn.LuthierClassifier"}
    joblib.dump(fitted, kept := io.BytesIO())
    kept.seek(0)
    for again in (pickle.loads(raw), joblib.load(kept)):
        assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
        assert again.get_params().keys() == fitted.get_params().keys()


def test_without_scikit_learn_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["sklearn"] = None
try:
    import luthier.sklearn
except Exception as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'luthier[sklearn]'" in said
