"""Schema to Blueprint and Recipe, with the reasons in words. The rules are written out; nothing is measured."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.blueprint import Blueprint
from luthier.core.names import did_you_mean
from luthier.core.recipe import Recipe
from luthier.core.schema import ImageInput, Schema
from luthier.core.settings import NetworkSettings
from luthier.errors import NetworkError, SettingError
from luthier.networks.build import FAMILIES

_FOR_IMAGES = ("convnet", "resnet")
_EFFORT = {"quick": 0.4, "normal": 1.0, "thorough": 2.5}


@dataclass(frozen=True)
class Choice:
    """A design: the network, how to train it, and why; `reasons` are keyed by field (`widths`, `lr`, …)."""

    blueprint: Blueprint
    recipe: Recipe
    reasons: dict[str, str] = field(default_factory=dict)


def choose(
    schema: Schema,
    settings: NetworkSettings,
    recipe_fields: Mapping[str, Any],
    *,
    num_numbers: int = 0,
    category_sizes: Sequence[int] = (),
    vocabulary_sizes: Sequence[int] = (),
) -> Choice:
    """Choose a network and a recipe for what the Schema says; what was asked for goes first.

    Args:
        schema: Inputs, targets and the number of training rows.
        settings: What the user said of the network.
        recipe_fields: What the user said of the recipe.
        num_numbers: Of a table, the numbers a row becomes.
        category_sizes: Of a table, the codes of each category column.
        vocabulary_sizes: Of a table, the tokens of each column of text.

    Raises:
        NetworkError: a family that does not take such data, or an argument that it does not have.
    """
    reasons: dict[str, str] = {}
    if schema.image is not None:
        family, arguments, chosen = _for_images(schema, schema.image, settings, reasons)
    elif vocabulary_sizes:
        family, arguments, chosen = _for_text(schema, settings, reasons, num_numbers, category_sizes, vocabulary_sizes)
    else:
        family, arguments, chosen = _for_table(schema, settings, reasons, num_numbers, category_sizes)
    arguments |= _accepted(family, settings.arguments)
    for name in settings.arguments:
        reasons[name] = "as asked for"
    recipe: dict[str, Any] = {"criterion": _criterion(schema, reasons), "seed": 0, "patience": None} | chosen
    normalised = arguments.get("batch_norm", schema.image is not None)
    if normalised and schema.num_rows % (recipe_fields.get("batch_size") or recipe["batch_size"]) == 1:
        recipe["drop_last"], reasons["drop_last"] = True, "batch norm cannot do with a last batch of one row"
    if recipe_fields.get("criterion") is not None:
        _check_criterion(str(recipe_fields["criterion"]), schema)
        if str(recipe_fields["criterion"]).lower() not in ("cross-entropy", "crossentropyloss"):
            recipe.pop("label_smoothing", None)
    reasons["seed"] = "the same call gives the same network"
    if "scheduler" in recipe_fields and "scheduler_args" not in recipe_fields:
        recipe.pop("scheduler_args", None)
    batches = math.ceil(schema.num_rows / (recipe_fields.get("batch_size") or recipe["batch_size"]))
    updates = min(batches, recipe_fields.get("limit") or batches) * (recipe_fields.get("epochs") or recipe["epochs"])
    if updates < 20 and "scheduler" not in recipe_fields:
        for name in ("scheduler", "scheduler_args"):
            recipe.pop(name, None)
        reasons["scheduler"] = f"{updates} updates are too few for a cycle"
    if {"optimizer"} & recipe_fields.keys():  # another optimizer keeps its own defaults, not those chosen for AdamW
        for name in ("lr", "weight_decay", "decay_norm_and_bias"):
            recipe.pop(name, None)
    for name in recipe_fields:
        reasons[name] = "as asked for"
    if "limit" in recipe_fields and "epochs" not in recipe_fields:
        recipe["epochs"], reasons["epochs"] = 1, "a dry run"
    return Choice(Blueprint(family=family, arguments=arguments), Recipe(**{**recipe, **recipe_fields}), reasons)


def _criterion(schema: Schema, reasons: dict[str, str]) -> str:
    names = {
        "binary": ("bce", "two classes: one logit, and binary cross-entropy with it"),
        "multiclass": ("cross-entropy", f"{schema.num_outputs} classes: one logit each, and cross-entropy"),
        "multilabel": ("bce", f"{schema.num_outputs} labels: one logit each, and binary cross-entropy"),
        "regression": ("mse", "numbers: standardised, and the mean squared error"),
    }
    name, reasons["criterion"] = names[schema.task]
    return name


_CRITERIA = {
    "binary": ("bce", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"),
    "multiclass": ("cross-entropy", "CrossEntropyLoss", "MultiMarginLoss"),
    "multilabel": ("bce", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"),
    "regression": ("mse", "MSELoss", "l1", "L1Loss", "huber", "HuberLoss", "SmoothL1Loss"),
}


def _check_criterion(name: str, schema: Schema) -> None:
    """Refuse a loss that does not go with logits or numbers of the task."""
    known = _CRITERIA[schema.task]
    if name.lower() not in (item.lower() for item in known):
        raise SettingError(
            f"criterion {name!r} does not go with the task {schema.task}",
            hint=did_you_mean(name, known) + "; any other goes by luthier.fit with an own module",
            code="setting-criterion",
        )


def _family(settings: NetworkSettings, allowed: Sequence[str], chosen: str, what: str) -> str:
    if settings.network is None:
        return chosen
    if settings.network not in allowed:
        known = settings.network in FAMILIES
        raise NetworkError(
            f"network {settings.network!r} does not take {what}"
            if known
            else f"there is no network {settings.network!r}",
            hint=f"use {' or '.join(allowed)}" if known else did_you_mean(settings.network, FAMILIES),
            code="network-wrong-family" if known else "network-unknown-family",
        )
    return settings.network


def _accepted(family: str, arguments: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(FAMILIES[family]).parameters
    for name in arguments:
        if name not in known:
            raise NetworkError(
                f"{name} would be ignored: a {family} has none", hint="leave it out", code="network-unknown-argument"
            )
    return arguments


def _for_table(
    schema: Schema,
    settings: NetworkSettings,
    reasons: dict[str, str],
    num_numbers: int,
    category_sizes: Sequence[int],
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n = schema.num_rows
    family = _family(settings, ("mlp",), "mlp", "tables")
    width = 64 if n < 2_000 else 128 if n < 10_000 else 256
    depth = 2 if n < 10_000 else 3
    dropout = 0.2 if n < 10_000 else 0.3
    embeddings = [min(32, max(2, round(1.6 * size**0.56))) for size in category_sizes]
    reasons |= {
        "family": "rows of a table: a multilayer perceptron",
        "widths": f"{n:,} training rows carry {depth} hidden layers of {width}",
        "dropout": "keeps a network of this width from learning the rows by heart",
        "embedding_sizes": "1.6 size^0.56 numbers for a category of that size, at most 32",
        "activation": "the plain choice",
    }
    arguments: dict[str, Any] = {
        "num_numbers": num_numbers,
        "num_outputs": schema.num_outputs,
        "category_sizes": list(category_sizes),
        "embedding_sizes": embeddings,
        "widths": [width] * depth,
        "activation": "relu",
        "dropout": dropout,
        "batch_norm": False,
    }
    batch_size = _power_of_two(n / 100, 16, 256)
    usual = 40 if n < 10_000 else 30 if n <= 100_000 else max(10, round(30 * math.sqrt(100_000 / n)))
    epochs = max(4, round(usual * _EFFORT[settings.effort]))
    recipe = {
        "optimizer": "AdamW",
        "lr": 0.003 if n < 10_000 else 0.002,
        "weight_decay": 0.01,
        "decay_norm_and_bias": False,
        "scheduler": "OneCycleLR",
        "scheduler_args": {"pct_start": 0.2, "cycle_momentum": False},
        "epochs": epochs,
        "batch_size": batch_size,
        "eval_batch_size": 4096,
        "clip_norm": 1.0,
        "patience": max(5, math.ceil(epochs / 3)),
    }
    reasons |= {
        "optimizer": "robust over learning rates; decay apart from the gradient",
        "lr": "the peak of the cycle",
        "decay_norm_and_bias": "biases and norms need no decay",
        "scheduler": "up, then down to near nothing: most of the gain comes at the end",
        "epochs": "40 below 10,000 rows, 30 up to 100,000, then fewer; times the effort",
        "batch_size": "a hundredth of the rows, between 16 and 256",
        "clip_norm": "one wild batch cannot throw the weights",
        "patience": "a third of the epochs without a gain is enough",
    }
    return family, arguments, recipe


def _for_text(
    schema: Schema,
    settings: NetworkSettings,
    reasons: dict[str, str],
    num_numbers: int,
    category_sizes: Sequence[int],
    vocabulary_sizes: Sequence[int],
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the design for rows with text: that of a table, with a branch that reads, more dropout, fewer epochs."""
    others = num_numbers + len(category_sizes)
    family = _family(settings, ("mixed",), "mixed", "rows with text")
    _, table, recipe = _for_table(schema, NetworkSettings(effort=settings.effort), {}, num_numbers, category_sizes)
    arguments: dict[str, Any] = {
        "num_numbers": num_numbers,
        "num_outputs": schema.num_outputs,
        "vocabulary_sizes": list(vocabulary_sizes),
        "category_sizes": list(category_sizes),
        "embedding_sizes": table["embedding_sizes"],
        "token_size": 64,
        "reader": "mean",
        "token_dropout": 0.3,
        "widths": [128] if others else [],
        "activation": "relu",
        "dropout": 0.5 if not others else 0.3,
    }
    epochs = max(4, round(12 * _EFFORT[settings.effort]))
    recipe |= {
        "lr": 0.003,
        "epochs": epochs,
        "batch_size": _power_of_two(schema.num_rows / 100, 16, 64),
        "patience": None,
    }
    reasons |= {
        "family": "text in the rows: a branch for each kind of column, side by side",
        "reader": "the mean of the words' embeddings: on a few thousand rows it beats longer readings",
        "token_dropout": "a text is to be known by more than one of its words",
        "widths": "text alone goes to the answer directly"
        if not others
        else "one layer joins text and the other columns",
        "dropout": "words seen in a few rows are learnt by heart soonest",
        "embedding_sizes": "1.6 size^0.56 numbers for a category of that size, at most 32",
        "optimizer": "robust over learning rates; decay apart from the gradient",
        "lr": "the peak of the cycle",
        "decay_norm_and_bias": "biases and norms need no decay",
        "scheduler": "up, then down to near nothing: most of the gain comes at the end",
        "epochs": "12 with text, times the effort",
        "batch_size": "a hundredth of the rows, between 16 and 64",
        "clip_norm": "one wild batch cannot throw the weights",
    }
    return family, arguments, recipe


def _for_images(
    schema: Schema, image: ImageInput, settings: NetworkSettings, reasons: dict[str, str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n, side = schema.num_rows, max(image.height, image.width)
    family = _family(settings, _FOR_IMAGES, "convnet" if side <= 48 else "resnet", "images")
    stem_stride = 1 if side < 20 else 2 if side <= 64 else 4
    small = n < 2_000
    widths = [24, 48, 96, 192] if small else [32, 64, 128, 256]
    arguments: dict[str, Any] = {
        "channels": image.channels,
        "num_outputs": schema.num_outputs,
        "widths": widths,
        "stem_stride": stem_stride,
        "dropout": 0.2,
    }
    arguments["blocks" if family == "resnet" else "depth"] = 1
    batch_size = _power_of_two(n / 100, 16, 128)
    steps = 3_200
    epochs = max(4, min(60, round(steps * batch_size / max(n, 1) * _EFFORT[settings.effort])))
    moved = settings.effort == "thorough" or (settings.effort == "normal" and n < 20_000)
    augment = ("shift",) if moved else ()
    recipe: dict[str, Any] = {
        "optimizer": "AdamW",
        "lr": 0.004,
        "weight_decay": 0.05,
        "decay_norm_and_bias": False,
        "scheduler": "OneCycleLR",
        "scheduler_args": {"pct_start": 0.25, "anneal_strategy": "linear", "cycle_momentum": False},
        "epochs": epochs,
        "batch_size": batch_size,
        "eval_batch_size": 256,
        "augment": augment,
        "memory_format": "channels_last",
    }
    if schema.task == "multiclass":
        recipe["label_smoothing"] = 0.05
        reasons["label_smoothing"] = "keeps the logits from running off on training images"
    reasons |= {
        "family": f"images of {image.height} x {image.width}: convolutions"
        + (" with shortcuts" if family == "resnet" else ""),
        "widths": f"{n:,} training images of {side} pixels",
        "stem_stride": "small images keep every pixel" if stem_stride == 1 else "the first layer shrinks large images",
        "dropout": "a light guard against learning by heart",
        "optimizer": "robust over learning rates; decay apart from the gradient",
        "lr": "the peak of the cycle",
        "decay_norm_and_bias": "biases and norms need no decay",
        "scheduler": "up, then down to near nothing: most of the gain comes at the end",
        "epochs": f"about {steps * _EFFORT[settings.effort]:,.0f} updates, at least 4 and at most 60 epochs",
        "batch_size": "a hundredth of the images, between 16 and 128",
        "augment": "each image moved by a few pixels, which no label minds; add flip where sides do not matter"
        if moved
        else "images enough, and too few epochs for more of them",
        "memory_format": "the faster layout for convolutions",
    }
    return family, arguments, recipe


def _power_of_two(value: float, low: int, high: int) -> int:
    nearest: int = 2 ** round(math.log2(max(value, 1)))
    return max(low, min(high, nearest))
