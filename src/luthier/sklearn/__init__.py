"""Estimators for scikit-learn: a network that is designed for the data, or a module of your own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from luthier.core.names import did_you_mean
from luthier.core.recipe import Recipe
from luthier.core.rng import kept_rng, seed_all
from luthier.core.settings import CheckSettings, DataSettings, FinishSettings, NetworkSettings
from luthier.data.frames import is_pandas, object_series
from luthier.data.sources import TensorSource
from luthier.errors import DataError, MissingPackageError, SettingError
from luthier.networks.foreign import is_own_file
from luthier.pipeline.train import train
from luthier.serving.model import load
from luthier.training.fit import fit

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        assert_all_finite,
        check_array,
        check_consistent_length,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise MissingPackageError(
        f"luthier.sklearn needs scikit-learn 1.6 or newer, which is not installed ({error})",
        hint="install it: pip install 'luthier[sklearn]'",
        code="missing-package",
    ) from error

__all__ = ["LuthierClassifier", "LuthierRegressor"]

_OWN = {"source", "target", "task", "labels", "positive", "weight", "valid", "test", "test_fraction", "seed", "start"}
_SETTINGS = {
    item.name for cls in (DataSettings, NetworkSettings, Recipe, FinishSettings, CheckSettings) for item in fields(cls)
} - _OWN
_WEIGHT = "sample weight"


class _Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share. Parameters beside the named ones are settings of `luthier.train`."""

    def __init__(self, module: Any = None, *, random_state: Any = None, **settings: Any) -> None:
        self.module = module
        self.random_state = random_state
        self.__dict__.update(settings)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name: the named ones, and the settings that were given."""
        return {name: value for name, value in vars(self).items() if not (name[0] == "_" or name[-1] == "_")}

    def set_params(self, **params: Any) -> Self:
        """Set parameters; any setting may be among them, given before or not. `fit` refuses a name that is none."""
        self.__dict__.update(params)
        return self

    def __sklearn_tags__(self) -> Any:
        """Say what the estimators take, for scikit-learn's own checks."""
        tags = super().__sklearn_tags__()
        is_designed = self.module is None
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = is_designed
        tags.non_deterministic = self.random_state is None
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters, and what was learnt as the bytes of a bundle: no code, no pickled module."""
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                state.pop("model_").save(path)
                state["bundle"] = path.read_bytes()
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        kept = {name: value for name, value in state.items() if name != "bundle"}
        super().__setstate__(kept)
        if "bundle" in state:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                path.write_bytes(state["bundle"])
                network = str(self.get_params().get("network", ""))
                own = {"network": network} if is_own_file(network) else {}
                self.model_ = load(path, module=self._make_module(), **own)

    def _settings(self) -> dict[str, Any]:
        given = {name: value for name, value in self.get_params().items() if name not in ("module", "random_state")}
        for name in given.keys() - _SETTINGS:
            raise SettingError(
                f"{type(self).__name__} has no setting {name!r}",
                hint=did_you_mean(name, {"module", "random_state", *_SETTINGS}),
                code="setting-unknown",
            )
        seed = int(check_random_state(self.random_state).randint(2**31))
        return {"seed": seed, **given}

    def _make_module(self) -> nn.Module | None:
        """Return a fresh module of the user's, or None where the network is designed."""
        if self.module is None or isinstance(self.module, nn.Module):
            return deepcopy(self.module)
        return self.module(self.n_features_in_, self._num_outputs())  # type: ignore[no-any-return]

    def _inputs(self, X: Any, *, reset: bool) -> Any:
        """Return rows as what the model takes: a frame, or a float32 tensor for a module of the user's."""
        if self.module is not None:
            array = validate_data(self, X, reset=reset, dtype=np.float32, allow_nd=True, ensure_min_samples=1 + reset)
            return torch.from_numpy(np.ascontiguousarray(array))
        if isinstance(X, pl.DataFrame) or (is_pandas(X) and hasattr(X, "columns")):
            validate_data(self, X, reset=reset, skip_check_array=True)
            is_named = all(isinstance(name, str) for name in X.columns)
            return X if is_named else X.set_axis([f"x{i}" for i in range(X.shape[1])], axis=1)
        array = validate_data(
            self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=1 + reset
        )
        columns = (array[:, i] for i in range(array.shape[1]))
        is_numeric = array.dtype.kind in "biuf"
        return pl.DataFrame(
            {
                f"x{i}": cells.astype(np.float64) if is_numeric else object_series(cells.tolist())
                for i, cells in enumerate(columns)
            }
        )

    def _train(
        self, X: Any, targets: dict[str, NDArray[Any]], sample_weight: Any, criterion: str, **named: Any
    ) -> None:
        settings, inputs = self._settings(), self._inputs(X, reset=True)
        check_consistent_length(X, *targets.values())
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.module is not None:
            with kept_rng():
                seed_all(settings["seed"])  # the weights that a function makes follow from random_state too
                module = self._make_module()
            named = {"criterion": criterion, "optimizer": "AdamW"}
            assert module is not None
            values = torch.from_numpy(np.stack([*targets.values()], axis=1))
            source = TensorSource(
                (inputs,),
                values[:, 0] if criterion == "CrossEntropyLoss" else values.float(),
                weights=None if weights is None else torch.from_numpy(weights).float(),
            )
            self.model_ = fit(module, source, verbose=False, **{**named, **settings}).model
            return
        taken = _free_names(inputs.columns, [*targets, _WEIGHT])
        added = {taken[name]: values for name, values in targets.items()}
        if weights is not None:
            added[taken[_WEIGHT]] = weights
            named["weight"] = taken[_WEIGHT]
        # what a frame has as numbers are numbers, as for other estimators: whole ones are not taken for categories
        numbers = {name: "number" for name in inputs.columns if _is_number(inputs[name].dtype)}
        named |= {**settings, "kind": {**numbers, **settings.get("kind", {})}, "target": [taken[n] for n in targets]}
        frame = inputs.assign(**added) if is_pandas(inputs) else inputs.with_columns(**added)
        try:
            self.model_ = train(frame, test_fraction=0.0, verbose=False, **named).model
        except DataError as error:
            if error.code != "data-too-few-rows" or "valid_fraction" in named:
                raise
            self.model_ = train(frame, test_fraction=0.0, valid_fraction=0.0, verbose=False, **named).model


def _is_number(kind: Any) -> bool:
    """Whether the type of a column, of polars or pandas, is one of numbers."""
    return kind.is_numeric() if isinstance(kind, pl.DataType) else getattr(kind, "kind", "O") in "iuf"


def _free_names(columns: Any, names: list[str]) -> dict[str, str]:
    """Return the names, each with underscores after it where a column has it already."""
    there, found = {str(name) for name in columns}, {}
    for name in names:
        free = name
        while free in there:
            free += "_"
        found[name] = free
        there.add(free)
    return found


def _need_y(y: Any, estimator: _Estimator) -> None:
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")


class LuthierClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier of scikit-learn: a network that Luthier designs for the data, or a module of your own.

    Args:
        module: None: the network is designed, and X may be an array or a frame with text, dates, categories and
            missing values. Else a module `(N, D)` to logits `(N, C)`, which is copied for each fit; or a callable
            `(num_features, num_classes) -> module`.
        random_state: Seeds the split, the weights and the order.
        **settings: Any setting of `luthier.train` (of `luthier.fit` with `module`): `epochs=`, `lr=`, `effort=`, …

    Attributes:
        classes_: The classes, sorted; columns of `predict_proba` are in this order.
        model_: The trained `luthier.Model`: `save` writes it as a bundle.
        n_features_in_: Columns of X.

    Pickle and joblib keep the parameters and the bundle; a module of your own is made anew from `module`.

    >>> X, y = np.arange(40.0).reshape(-1, 1) % 9, np.arange(40) % 9 > 4
    >>> LuthierClassifier(epochs=40, random_state=0).fit(X, y).predict(X[:3])
    array([False, False, False])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows `X` of shape `(N, D)` and their classes `y` of shape `(N,)`, weighted by `sample_weight`."""
        _need_y(y, self)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs rows of 2 classes or more, and y has only one class")
        name = str(getattr(y, "name", None) or "target")
        if self.module is not None:
            self._train(X, {name: codes.astype(np.int64)}, sample_weight, "CrossEntropyLoss")
            return self
        words = np.array([f"class {code}" for code in range(len(self.classes_))])
        more = {"positive": "class 1"} if len(self.classes_) == 2 else {}
        self._train(X, {name: words[codes]}, sample_weight, "", **more)
        schema = self.model_.schema
        assert schema is not None
        order = [int(word.split()[1]) for word in schema.targets[0].classes]
        dtype = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(self.classes_.dtype.kind, "str")
        named = tuple(str(self.classes_[code]) for code in order)
        target = replace(schema.targets[0], classes=named, dtype=dtype)  # type: ignore[arg-type]
        self.model_.schema = replace(schema, targets=(target,))
        self._columns = np.argsort(order)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, `(N, C)`, in the order of `classes_`."""
        check_is_fitted(self, "model_")
        found = np.asarray(self.model_.predict_proba(self._inputs(X, reset=False)), dtype=np.float64)
        return found if self.module is not None else found[:, self._columns]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, `(N,)`."""
        codes = self.predict_proba(X).argmax(axis=1)  # which says so where there was no fit
        chosen: NDArray[Any] = self.classes_[codes]
        return chosen

    def _num_outputs(self) -> int:
        return len(self.classes_)


class LuthierRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A regressor of scikit-learn: a network that Luthier designs for the data, or a module of your own.

    Args:
        module: As in `LuthierClassifier`; it gives `(N, K)` for K targets, in their units.
        random_state: As there.
        **settings: As there.

    Attributes:
        model_: The trained `luthier.Model`: `save` writes it as a bundle.
        n_features_in_: Columns of X.

    >>> X = np.arange(40.0).reshape(-1, 1)
    >>> LuthierRegressor(epochs=20, random_state=0).fit(X, X[:, 0]).predict(X[:3]).shape
    (3,)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows `X` of shape `(N, D)` and numbers `y` of shape `(N,)` or `(N, K)`."""
        _need_y(y, self)
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        self._is_flat = values.ndim == 1
        columns = values.reshape(len(values), -1)
        self._num_targets = columns.shape[1]
        lone = str(getattr(y, "name", None) or "target")
        names = [lone] if self._is_flat else [str(name) for name in getattr(y, "columns", range(columns.shape[1]))]
        names = [name if not name.isdigit() else f"target {name}" for name in names]
        found = {name: columns[:, i] for i, name in enumerate(names)}
        self._train(X, found, sample_weight, "MSELoss", **({} if self.module is not None else {"task": "regression"}))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the number, `(N,)`, or numbers, `(N, K)`, of each row."""
        check_is_fitted(self, "model_")
        found = np.asarray(self.model_.predict(self._inputs(X, reset=False)), dtype=np.float64)
        return found.reshape(-1) if self._is_flat else found.reshape(len(found), -1)

    def __sklearn_tags__(self) -> Any:
        """Say what the estimator takes, for scikit-learn's own checks."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _num_outputs(self) -> int:
        return int(self._num_targets)
