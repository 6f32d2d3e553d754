"""Schema to Blueprint and Recipe, with the reasons in words. The rules are written out; nothing is measured."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from luthier.core.blueprint import Blueprint
from luthier.core.names import did_you_mean
from luthier.core.recipe import TRUNK, Recipe
from luthier.core.schema import ImageInput, InputSizes, Schema
from luthier.core.settings import NetworkSettings
from luthier.errors import NetworkError, SettingError
from luthier.networks.build import FAMILIES
from luthier.networks.foreign import asked_arguments, is_foreign

_NO_SIZES = InputSizes()
_TABLE = ("numbers", "categories")
_MOVED = "shifts images by a few pixels, which changes no label; add flip if left and right do not matter"
_USUAL = {
    "optimizer": "robust to the learning rate; decoupled weight decay",
    "lr": "the peak of the cycle",
    "decay_norm_and_bias": "biases and norms need no decay",
    "scheduler": "rises, then falls to almost 0: most of the improvement comes at the end",
}
_LENGTH = {True: "more than needed: patience stops training", False: "fixed: no validation rows to stop by"}
_AVERAGED = {
    "lr": "constant: averaging the weights replaces a falling rate",
    "ema": "average of the weights over the last few hundred updates; it is validated and kept",
    "patience": "stops after this many epochs without a lower validation loss",
}
ENOUGH_VALID = 50
"""Rows to validate on, below which they choose no epoch of a network over series."""
FEW_IMAGES = 2_000
"""Below so many, images take a smaller network and an average of its weights: docs/decisions/images.md."""
_MANY_SERIES, _FEW_STEPS = 500, 16  # docs/decisions/series.md
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
    sizes: InputSizes = _NO_SIZES,
    num_valid: int = 0,
) -> Choice:
    """Choose a network and a recipe for what the Schema says; what was asked for goes first.

    Args:
        schema: Inputs, targets and the number of training rows.
        settings: What the user said of the network.
        recipe_fields: What the user said of the recipe.
        sizes: Of a table, how many inputs of each kind a row becomes.
        num_valid: Rows to validate on.

    Raises:
        NetworkError: a family that does not take such data, or an argument that it does not have.
    """
    reasons = dict(_USUAL)
    asked = settings
    if is_foreign(settings.network or ""):
        # the recipe is that of the network it stands for
        is_table = schema.blocks == _TABLE
        stands_for: dict[str, Any] = {"network": "mlp"} if is_table else {"network_args": {"members": 0}}
        settings = NetworkSettings(effort=settings.effort, **stands_for)
    if schema.image is not None and schema.blocks == ("pixels",):
        family, arguments, chosen = _for_images(schema, schema.image, settings, reasons)
    elif schema.blocks == ("values", "lengths"):
        family, arguments, chosen = _for_series(schema, settings, reasons, sizes, num_valid)
    elif schema.blocks == _TABLE:
        family, arguments, chosen = _for_table(schema, settings, reasons, sizes, num_valid)
    else:
        family, arguments, chosen = _for_mixed(schema, settings, reasons, sizes, num_valid)
    known = _known_sizes(schema, sizes)
    if asked is not settings:
        assert asked.network is not None
        family, arguments = asked.network, asked_arguments(asked.network, known, asked.arguments)
        reasons = {name: why for name, why in reasons.items() if name in chosen} | {"family": "as asked for"}
    else:
        arguments = _accepted(family, known | arguments, settings.arguments)
    for name in asked.arguments:
        reasons[name] = "as asked for"
    recipe: dict[str, Any] = {"criterion": _criterion(schema, reasons), "seed": 0, "patience": None} | chosen
    normalised = arguments.get("batch_norm", family not in ("mlp", "tabm", "recurrent", "rocket"))
    if normalised and schema.num_rows % (recipe_fields.get("batch_size") or recipe["batch_size"]) == 1:
        recipe["drop_last"], reasons["drop_last"] = True, "batch norm cannot train on the last batch, which has one row"
    if recipe_fields.get("criterion") is not None:
        _check_criterion(str(recipe_fields["criterion"]), schema)
        if str(recipe_fields["criterion"]).lower() not in ("cross-entropy", "crossentropyloss"):
            recipe.pop("label_smoothing", None)
    if (
        family in ("rocket", "inception", "recurrent")
        and 0 < num_valid < ENOUGH_VALID
        and "patience" not in recipe_fields
    ):
        recipe["monitor"] = "train_loss"
        reasons["monitor"] = f"{num_valid} validation rows are too few to choose an epoch"
    reasons["seed"] = "the same call gives the same network"
    if "scheduler" in recipe_fields and "scheduler_args" not in recipe_fields:
        recipe.pop("scheduler_args", None)
    batches = math.ceil(schema.num_rows / (recipe_fields.get("batch_size") or recipe["batch_size"]))
    updates = min(batches, recipe_fields.get("limit") or batches) * (recipe_fields.get("epochs") or recipe["epochs"])
    updates = min(updates, recipe_fields.get("max_steps") or updates)
    for name in _USUAL.keys() - recipe.keys():  # of another family's recipe
        reasons.pop(name, None)
    if updates < 20 and "scheduler" in recipe and "scheduler" not in recipe_fields:
        for name in ("scheduler", "scheduler_args"):
            recipe.pop(name, None)
        reasons["scheduler"] = f"{updates} updates are too few for a cycle"
    if updates < 500 and "ema" in recipe and "ema" not in recipe_fields:
        del recipe["ema"]
        reasons["ema"] = f"{updates} updates are too few for an average of the weights"
    if recipe.get("optimizer") == "AdamW":
        recipe["optimizer_flavour"], reasons["optimizer_flavour"] = (
            "fused",
            "one call per update",
        )
    if {"optimizer"} & recipe_fields.keys():  # another optimizer keeps its own defaults, not those chosen for AdamW
        for name in ("lr", "weight_decay", "decay_norm_and_bias", "optimizer_flavour"):
            recipe.pop(name, None)
    for name in recipe_fields:
        reasons[name] = "as asked for"
    if "limit" in recipe_fields and "epochs" not in recipe_fields:
        recipe["epochs"], reasons["epochs"] = 1, "a dry run"
    return Choice(Blueprint(family=family, arguments=arguments), Recipe(**{**recipe, **recipe_fields}), reasons)


def trains_head_alone(recipe: Recipe) -> bool:
    """Whether a recipe leaves all but the last layer as it is, and gives it the same inputs each epoch."""
    is_plain = not recipe.augment and not recipe.lr_scale and not recipe.compile and recipe.precision == "float32"
    return recipe.freeze == (TRUNK,) and is_plain


def choose_for_head(
    choice: Choice, schema: Schema, recipe_fields: Mapping[str, Any], *, num_valid: int = 0, why: str | None = None
) -> Choice:
    """Return a design whose network has a last layer that is trained alone, on what the others give, computed once.

    Gradient descent from zero, stopped by the validation loss, goes along the path of ever weaker L2: how many updates
    are kept is how much L2 there is (docs/decisions/images.md). `why` says what keeps the network from it, if anything.
    """
    if TRUNK not in choice.recipe.freeze:
        return choice
    smooth, plain = schema.task == "regression", Recipe()
    usual = 100 if num_valid else 30
    chosen: dict[str, Any] = {
        "optimizer": "SGD", "lr": 0.3 if smooth else 1.0, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0001,
        "batch_size": 64, "epochs": usual, "patience": 20 if num_valid else None,
    }  # fmt: skip
    left = {name: getattr(plain, name) for name in _LEFT_OUT}
    given = set(recipe_fields) | ({*_OF_OPTIMIZER} if "optimizer" in recipe_fields else set())
    fields = {name: value for name, value in (left | chosen).items() if name not in given}
    recipe = choice.recipe.updated(**fields)
    if why is not None or not trains_head_alone(recipe):
        why = why or "augment, lr_scale, compile or precision ask for it"
        return replace(choice, reasons=choice.reasons | {"freeze": f"as asked for; computed in each epoch: {why}"})
    reasons = {name: said for name, said in choice.reasons.items() if name not in fields} | {
        "freeze": "only the last layer is trained: the output of the others is computed once for each row, and scaled"
    }
    words = {
        "optimizer": "one layer over constant features: plain gradient descent",
        "lr": "constant: features are scaled so that a row's squared length is 1",
        "epochs": _LENGTH[num_valid > 0],
        "patience": "early stopping acts like an L2 penalty; validation rows choose the strength",
        "batch_size": "64 for any number of rows",
        "augment": "none: with changed images the frozen layers would run in each epoch",
    }
    return Choice(choice.blueprint, recipe, reasons | {name: said for name, said in words.items() if name in fields})


_OF_OPTIMIZER = ("optimizer", "lr", "momentum", "nesterov", "weight_decay")
_LEFT_OUT = (
    "scheduler", "scheduler_args", "label_smoothing", "clip_norm", "ema", "drop_last", "augment", "optimizer_flavour",
    "decay_norm_and_bias", "monitor",
)  # fmt: skip


def _known_sizes(schema: Schema, sizes: InputSizes) -> dict[str, Any]:
    """Return what a custom network may ask for, by name."""
    known: dict[str, Any] = {"num_outputs": schema.num_outputs, "num_classes": schema.num_outputs}
    if "numbers" in schema.blocks:
        known |= {"num_numbers": sizes.num_numbers, "category_sizes": list(sizes.category_sizes)}
        known |= {"ranks": list(sizes.ranks), "embedding_sizes": _embedding_sizes(sizes)}
    if "tokens" in schema.blocks:
        known["vocabulary_sizes"] = list(sizes.vocabulary_sizes)
    if "values" in schema.blocks:
        known |= {"channels": sizes.series_channels, "series_channels": sizes.series_channels}
        known["max_steps"] = sizes.max_steps
    if schema.image is not None:
        image = schema.image
        known |= {"channels": image.channels, "in_channels": image.channels}
        known |= {"image_channels": image.channels, "image_height": image.height, "image_width": image.width}
    return known


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
    "regression": (
        "mse", "MSELoss", "l1", "L1Loss", "huber", "HuberLoss", "SmoothL1Loss", "poisson", "PoissonNLLLoss",
        "quantile", "QuantileLoss",
    ),
}  # fmt: skip


def _check_criterion(name: str, schema: Schema) -> None:
    """Refuse a loss that does not go with logits or numbers of the task."""
    known = _CRITERIA[schema.task]
    if name.lower() not in (item.lower() for item in known):
        raise SettingError(
            f"criterion {name!r} does not fit the task {schema.task}",
            hint=did_you_mean(name, known) + "; for any other use luthier.fit with your own module",
            code="setting-criterion",
        )


def _family(settings: NetworkSettings, chosen: str, what: str) -> str:
    if settings.network is None:
        return chosen
    allowed = [name for name, family in FAMILIES.items() if family.takes == FAMILIES[chosen].takes]
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


def _accepted(family: str, designed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a family: those of the design that it has, and those given."""
    known = inspect.signature(FAMILIES[family].module).parameters
    for name in given:
        if name not in known:
            raise NetworkError(
                f"{name} would be ignored: the network {family} does not have it",
                hint="leave it out",
                code="network-unknown-argument",
            )
    return {name: designed[name] for name in known if name in designed} | given


def _embedding_sizes(sizes: InputSizes) -> list[int]:
    return [min(32, max(2, round(1.6 * size**0.56))) for size in sizes.category_sizes]


def _for_table(
    schema: Schema, settings: NetworkSettings, reasons: dict[str, str], sizes: InputSizes, num_valid: int
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n = schema.num_rows
    of_mlp = {"activation", "batch_norm"} & settings.arguments.keys()  # what the mlp alone has
    family = _family(settings, "mlp" if of_mlp else "tabm", "tables")
    if family == "mlp":
        return _for_mlp(schema, settings, reasons, sizes)
    num_tokens = max(1, len(sizes.ranks) + len(sizes.category_sizes))
    arguments: dict[str, Any] = {
        "token_size": min(8 if n < 2_000 else 16, _power_of_two(2_048 / num_tokens, 2, 16)),
        "num_pieces": 32,
        "members": 8,
        "widths": [128, 128],
        "dropout": 0.1,
        "num_outputs": schema.num_outputs,
        "task": schema.task,
    }
    effort = _EFFORT[settings.effort]
    many = math.sqrt(max(1, n / 100_000))  # an epoch of more rows has more updates
    patience = max(4, round(24 * effort / many))
    epochs = max(patience, round(400 * effort / many)) if num_valid else max(4, round(30 * effort / many))
    recipe: dict[str, Any] = {
        "optimizer": "AdamW",
        "lr": 0.002,
        "weight_decay": 0.0003,
        "epochs": epochs,
        "batch_size": 64 if n < 1_500 else 128 if n < 8_000 else 256,
        "eval_batch_size": 4096,
        "clip_norm": 1.0,
        "ema": 0.99 if n < 10_000 else 0.995,
        "patience": patience,
    }
    reasons |= _AVERAGED | {
        "family": "rows of a table: eight perceptrons that share their layers, and curves over the numbers",
        "token_size": "features of each number and category: 16, and fewer below 2,000 rows or for many columns",
        "num_pieces": "each number enters as a curve of 32 lines over its rank; flat outside the training range",
        "members": "their mean answer is better than a single answer",
        "widths": "two layers of 128 for any number of rows: early stopping limits overfitting",
        "dropout": "reduces overfitting",
        "weight_decay": "light, on all weights",
        "epochs": _LENGTH[num_valid > 0],
        "batch_size": "64 below 1,500 rows, 128 below 8,000, else 256",
        "clip_norm": "limits the effect of an unusual batch",
    }
    return family, arguments, recipe


def _for_mlp(
    schema: Schema, settings: NetworkSettings, reasons: dict[str, str], sizes: InputSizes
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n = schema.num_rows
    family = "mlp"
    width = 64 if n < 2_000 else 128 if n < 10_000 else 256
    depth = 2 if n < 10_000 else 3
    dropout = 0.2 if n < 10_000 else 0.3
    has_waves = n >= 5_000 and schema.task != "regression" and sizes.num_numbers > 0
    reasons |= {
        "family": "rows of a table: a multilayer perceptron",
        "widths": f"{n:,} training rows carry {depth} hidden layers of {width}",
        "dropout": "reduces overfitting at this width",
        "embedding_sizes": "1.6 size^0.56 numbers for a category of that size, at most 32",
        "activation": "the plain choice",
        "batch_norm": "not needed with standardised inputs and dropout; answers do not depend on the batch",
        "number_size": "sine waves over each number separate near values, between which the class may change"
        if has_waves
        else "numbers as they are: "
        + ("the target changes smoothly" if schema.task == "regression" else "too few rows for more"),
    }
    arguments: dict[str, Any] = {
        "num_numbers": sizes.num_numbers,
        "num_outputs": schema.num_outputs,
        "category_sizes": list(sizes.category_sizes),
        "embedding_sizes": _embedding_sizes(sizes),
        "number_size": 8 if has_waves else 0,
        "widths": [width] * depth,
        "activation": "relu",
        "dropout": dropout,
        "batch_norm": False,
    }
    batch_size = _power_of_two(n / 100, 16, 256)
    usual = (
        15 if has_waves else 40 if n < 10_000 else 30 if n <= 100_000 else max(10, round(30 * math.sqrt(100_000 / n)))
    )
    epochs = max(4, round(usual * _EFFORT[settings.effort]))
    recipe = {
        "optimizer": "AdamW",
        "lr": 0.001 if has_waves else 0.003 if n < 10_000 else 0.002,
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
        "epochs": "15 with waves; otherwise 40 below 10,000 rows, 30 up to 100,000, then fewer; times the effort",
        "batch_size": "a hundredth of the rows, between 16 and 256",
        "clip_norm": "limits the effect of an unusual batch",
        "patience": "a third of the epochs",
    }
    return family, arguments, recipe


def _for_mixed(
    schema: Schema, settings: NetworkSettings, reasons: dict[str, str], sizes: InputSizes, num_valid: int
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the design for rows of several kinds: a branch for each kind, side by side."""
    has_table = bool(sizes.num_numbers or sizes.category_sizes) and bool(settings.arguments.get("members", 8))
    has_text, has_series, image = bool(sizes.vocabulary_sizes), bool(sizes.series_channels), schema.image
    kinds = [name for name, there in (("text", has_text), ("series", has_series), ("images", image)) if there]
    is_text_alone = kinds == ["text"] and not sizes.num_numbers and not sizes.category_sizes
    family = _family(settings, "mixed", f"rows with {' and '.join(kinds)}")
    effort = _EFFORT[settings.effort]
    num_buckets = 0 if has_table and not _has_sentences(schema) else _ngram_buckets(schema, sizes)
    arguments: dict[str, Any] = {
        "num_numbers": sizes.num_numbers,
        "num_outputs": schema.num_outputs,
        "category_sizes": list(sizes.category_sizes),
        "widths": [] if is_text_alone or (kinds == ["text"] and has_table and num_buckets) else [128],
        "activation": "relu",
        "dropout": 0.5 if kinds == ["text"] and (is_text_alone or has_table) else 0.3,
    }
    if has_table:
        _, table, recipe = _for_table(schema, NetworkSettings(effort=settings.effort), {}, sizes, num_valid)
        arguments |= {
            "embedding_sizes": _embedding_sizes(sizes), "ranks": list(sizes.ranks),
            "members": table["members"], "curve_size": table["token_size"], "table_alone": 0.5, "task": schema.task,
        }  # fmt: skip
        reasons |= {
            "members": "numbers and categories as for a table alone: members that share their layers, and curves",
            "curve_size": "features of each number and category, as for a table alone",
            "table_alone": "half of the rows, so that the network also learns from the table",
        }
    else:
        _, table, recipe = _for_mlp(schema, settings, {}, sizes)
        arguments["embedding_sizes"] = table["embedding_sizes"]
        reasons["embedding_sizes"] = "1.6 size^0.56 numbers for a category of that size, at most 32"
        recipe |= {"lr": 0.003, "batch_size": _power_of_two(schema.num_rows / 100, 16, 64), "patience": None}
    if has_text:
        arguments |= {
            "vocabulary_sizes": list(sizes.vocabulary_sizes), "token_size": 64, "reader": "mean", "token_dropout": 0.3,
            "ngram_buckets": num_buckets,
        }  # fmt: skip
        reasons |= {
            "reader": "the mean of the words' embeddings: better than other readers on a few thousand rows",
            "ngram_buckets": "words, pairs of words and pieces of words add to the outputs; pieces work for any script"
            if num_buckets
            else "short texts beside a table: pieces of words would mostly overfit",
            "token_dropout": "drops words in training, so that the network uses more than one of them",
        }
        if has_table and num_buckets:
            arguments["ngram_strength"] = 0.3
            reasons["ngram_strength"] = "small, so that the table beside the texts learns first"
    if has_series:
        arguments["series_channels"] = sizes.series_channels
        reasons["series_channels"] = "convolutions along the steps; mean and maximum over the steps"
    if image is not None:
        arguments["image_channels"] = image.channels
        arguments["image_stride"] = _stem_stride(image)
        reasons["image_channels"] = "convolutions over the image; mean over the pixels"
    if has_table:
        is_slow = image is not None or has_series
        if num_valid and (num_buckets or is_slow):
            recipe["patience"] = max(
                4, round(recipe["patience"] / 2) if num_buckets else round(recipe["patience"] / 1.5)
            )
        if is_slow:
            recipe["batch_size"] = _power_of_two(schema.num_rows / 50, 16, 64)
        reasons |= _AVERAGED | {
            "epochs": _LENGTH[num_valid > 0],
            "batch_size": "a fiftieth of the rows, between 16 and 64"
            if is_slow
            else "64 below 1,500 rows, 128 below 8,000, else 256",
        }
    elif kinds == ["text"]:
        epochs = round((40 if num_valid else 10) * effort)
        recipe |= {"epochs": epochs, "eval_batch_size": 512, "ema": 0.99, "patience": round(5 * effort)}
        del recipe["scheduler"], recipe["scheduler_args"]
        reasons |= _AVERAGED | {
            "epochs": _LENGTH[num_valid > 0],
            "batch_size": "a hundredth of the rows, between 16 and 64",
        }
    else:
        recipe["epochs"] = max(4, round(20 * effort))
        reasons |= {
            "epochs": f"20 with {' and '.join(kinds)}, times the effort",
            "batch_size": "a hundredth of the rows, between 16 and 64",
        }
    if has_text:
        recipe["eval_batch_size"] = 512
    if image is not None or has_series:
        recipe["eval_batch_size"] = 256
    if image is not None and settings.effort != "quick":
        recipe |= {"augment": ("shift",)}
        reasons["augment"] = _MOVED
    reasons |= {
        "family": f"{' and '.join(kinds)} in the rows: a branch for each kind of column, side by side",
        "widths": "one layer over the outputs of the branches"
        if arguments["widths"]
        else "the answer is computed from the text directly",
        "dropout": "rare words overfit first" if has_text else "few rows, many features",
        "activation": "the plain choice",
        "clip_norm": "limits the effect of an unusual batch",
    }
    return family, arguments, recipe


def _has_sentences(schema: Schema) -> bool:
    """Whether some column of text has more than a few words a row, or words that no spaces part."""
    texts = [column for column in schema.inputs if column.kind == "text"]
    return any(text.max_tokens >= 12 or text.max_characters > 12 * text.max_tokens for text in texts)


def _ngram_buckets(schema: Schema, sizes: InputSizes) -> int:
    """Return 2^17, or fewer where there are many outputs and columns: 2^22 numbers in all."""
    if "characters" not in schema.blocks:
        return 0
    return _power_of_two(2**22 / (schema.num_outputs * len(sizes.vocabulary_sizes)), 2**10, 2**17)


def _for_series(
    schema: Schema, settings: NetworkSettings, reasons: dict[str, str], sizes: InputSizes, num_valid: int
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n = schema.num_rows
    of_inception = {"width", "depth", "kernel_sizes", "stride", "dropout"} & settings.arguments.keys()
    is_learnt = of_inception or n >= _MANY_SERIES or sizes.max_steps < _FEW_STEPS
    family = _family(settings, "inception" if is_learnt else "rocket", "series")
    if family == "rocket":
        return _for_rocket(schema, settings, reasons, sizes, num_valid)
    stride = math.ceil(sizes.max_steps / 256)
    arguments: dict[str, Any] = {"channels": sizes.series_channels, "num_outputs": schema.num_outputs}
    arguments |= {"width": 16, "depth": 6, "kernel_sizes": [9, 19, 39], "stride": stride, "dropout": 0.2}
    arguments |= {"cell": "gru", "hidden_size": 64, "num_layers": 2, "pooling": "all"}
    batch_size = _power_of_two(n / 10, 8, 64)
    steps = 600
    epochs = max(10, min(150, round(steps * batch_size / max(n, 1) * _EFFORT[settings.effort])))
    recipe: dict[str, Any] = {
        "optimizer": "AdamW",
        "lr": 0.001,
        "weight_decay": 0.01,
        "decay_norm_and_bias": False,
        "scheduler": "OneCycleLR",
        "scheduler_args": {"pct_start": 0.2, "cycle_momentum": False},
        "epochs": epochs,
        "batch_size": batch_size,
        "eval_batch_size": 256,
        "clip_norm": 1.0,
    }
    reasons |= {
        "family": "series: convolutions of several lengths along the steps, with batch norm, ReLU and shortcuts"
        if family == "inception"
        else "series: read step by step, in both directions",
        "width": f"{n:,} training rows: few filters of each length",
        "depth": "two shortcuts over three blocks each, as published",
        "num_layers": "a second layer reads the output of the first",
        "kernel_sizes": "for patterns of a few steps and of many",
        "stride": f"series of up to {sizes.max_steps:,} steps"
        + (f", read as means of {stride}, so that long series take no more time" if stride > 1 else ""),
        "dropout": "reduces overfitting a little",
        "cell": "simpler than LSTM, and also has a memory",
        "hidden_size": f"{n:,} training rows",
        "pooling": "the last state, the mean and the maximum: for events that are late, frequent or single",
        "epochs": f"about {steps * _EFFORT[settings.effort]:,.0f} updates, at least 10 and at most 150 epochs",
        "batch_size": "a tenth of the rows, between 8 and 64",
        "clip_norm": "limits the effect of an unusual batch",
    }
    return family, arguments, recipe


def _for_rocket(
    schema: Schema, settings: NetworkSettings, reasons: dict[str, str], sizes: InputSizes, num_valid: int
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n = schema.num_rows
    arguments: dict[str, Any] = {
        "channels": sizes.series_channels,
        "num_outputs": schema.num_outputs,
        "max_steps": max(sizes.max_steps, 1),
        "num_dilations": 15,
        "num_thresholds": 30,
        "max_places": 512,
    }
    effort = _EFFORT[settings.effort]
    is_class, is_stopped = schema.task != "regression", num_valid >= ENOUGH_VALID
    batch_size, updates = 32, 320 * effort
    epochs = round(60 * effort) if is_stopped else max(20, min(round(60 * effort), round(updates * batch_size / n)))
    recipe: dict[str, Any] = {
        "optimizer": "AdamW",
        "lr": 0.001 if is_class else 0.0001,
        "weight_decay": 0.1 if is_class else 10.0,
        "epochs": epochs,
        "batch_size": batch_size,
        "eval_batch_size": 64,
        "clip_norm": 1.0,
        "patience": max(4, round(10 * effort)) if is_stopped else None,
    }
    if schema.task == "multiclass":
        recipe["label_smoothing"] = 0.1
        reasons["label_smoothing"] = "limits the logits of training series"
    reasons |= {
        "family": f"{n:,} series: fixed convolutions, because few series suffice to train the last layer only; "
        f"from {_MANY_SERIES:,} series on, or below {_FEW_STEPS} steps, convolutions are learnt",
        "max_steps": "the widest kernels span the longest training series",
        "num_dilations": "kernels of 9 steps, close together and far apart",
        "num_thresholds": "of each of the 84 kernels, over all dilations: 2,520 features",
        "max_places": "each kernel is evaluated at up to 512 places of a series, which saves time for long ones",
        "lr": "constant: one linear layer" + ("" if is_class else "; small: squared errors overshoot"),
        "weight_decay": "many features for few series"
        + ("" if is_class else "; each update takes the learning rate times as much, a thousandth of the weights"),
        "epochs": "more than needed: patience stops training"
        if is_stopped
        else f"about {updates:,.0f} updates, at least 20 epochs",
        "batch_size": "small, because there are few series; the first batch sets the thresholds",
        "clip_norm": "limits the effect of an unusual batch",
        "patience": "stops after this many epochs without a lower validation loss",
    }
    return "rocket", arguments, recipe


def _stem_stride(image: ImageInput) -> int:
    side = max(image.height, image.width)
    return 1 if side < 20 else 2 if side <= 64 else 4


def _for_images(
    schema: Schema, image: ImageInput, settings: NetworkSettings, reasons: dict[str, str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    n, side = schema.num_rows, max(image.height, image.width)
    small = n < FEW_IMAGES
    family = _family(settings, "convnet" if side <= 48 or small else "resnet", "images")
    is_quick = settings.effort == "quick" and family == "convnet"
    stem_stride = 1 if side <= 32 and not is_quick else _stem_stride(image)
    widths = [24, 48, 96, 192] if small else [16, 48, 96, 192] if stem_stride == 1 else [32, 64, 128, 256]
    widths = [24, 48, 96, 128] if is_quick and not small else widths
    arguments: dict[str, Any] = {
        "channels": image.channels,
        "num_outputs": schema.num_outputs,
        "widths": widths,
        "stem_stride": stem_stride,
        "dropout": 0.0 if is_quick else 0.2,
    }
    arguments |= {"blocks": 1, "depth": 1, "pool_first": is_quick}
    batch_size = _power_of_two(n / 100, 16, 128)
    steps = 2_800
    # its epochs take a quarter of the time
    share, least = (0.6, 3) if is_quick else (_EFFORT[settings.effort], 4)
    most = round(40 * max(share, 1)) if small else 60
    epochs = max(least, min(most, round(steps * batch_size / max(n, 1) * share)))
    moved = settings.effort == "thorough" or (settings.effort == "normal" and n < 20_000)
    augment = ("shift",) if moved else ()
    recipe: dict[str, Any] = {
        "optimizer": "AdamW",
        "lr": 0.012 if is_quick else 0.004,
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
    if small:
        recipe["ema"] = 0.99
        reasons["ema"] = "average of the weights over the last hundred updates: as good as 50 % more epochs"
    if schema.task == "multiclass":
        recipe["label_smoothing"] = 0.05
        reasons["label_smoothing"] = "limits the logits of training images"
    reasons |= {
        "family": f"images of {image.height} x {image.width}: convolutions"
        + (" with shortcuts" if family == "resnet" else "")
        + ", each with batch norm and ReLU, for fast training",
        "depth": "one convolution in each stage; each stage halves the image",
        "blocks": "one block of two convolutions a stage",
        "widths": f"{n:,} training images of {side} pixels",
        "stem_stride": "small images keep every pixel"
        if stem_stride == 1
        else "the first layer halves the image: a quarter of the work"
        if is_quick
        else "the first layer shrinks large images",
        "pool_first": "pooling comes first, so the rest of the stage has a quarter of the pixels"
        if is_quick
        else "as in textbooks",
        "dropout": "too few epochs to overfit" if is_quick else "reduces overfitting a little",
        "epochs": f"about {steps * share:,.0f} updates, at least {least} and at most {most} epochs",
        "batch_size": "a hundredth of the images, between 16 and 128",
        "augment": _MOVED if moved else "not needed: many images and few epochs",
        "memory_format": "the faster layout for convolutions",
    }
    return family, arguments, recipe


def _power_of_two(value: float, low: int, high: int) -> int:
    nearest: int = 2 ** round(math.log2(max(value, 1)))
    return max(low, min(high, nearest))
