"""The policy of the design: what is chosen on each side of every limit. `tests/golden` has whole designs as texts."""

from collections.abc import Sequence
from typing import Any

import pytest

from luthier.core.schema import Column, ColumnKind, ImageInput, InputSizes, Schema, Target, Task
from luthier.core.settings import NetworkSettings
from luthier.errors import NetworkError, SettingError
from luthier.networks.choose import Choice, choose

CYCLE = {"pct_start": 0.2, "cycle_momentum": False}


def targets_of(task: Task, outputs: int) -> tuple[Target, ...]:
    if task == "multiclass":
        return (Target(name="y", kind="category", classes=tuple(f"c{i}" for i in range(outputs))),)
    kind: Any = "number" if task == "regression" else "category"
    classes = () if task == "regression" else ("no", "yes")
    return tuple(Target(name=f"y{i}", kind=kind, classes=classes) for i in range(outputs))


def choice(
    n: int, kinds: Sequence[ColumnKind] = ("number",), task: Task = "binary", *, outputs: int = 1, num_valid: int = 100,
    numbers: int = 4, ranks: int = 4, categories: Sequence[int] = (), words: Sequence[int] = (), steps: int = 40,
    characters: int = 60, tokens: int = 5, side: int = 0, recipe: dict[str, Any] | None = None, **settings: Any,
) -> Choice:  # fmt: skip
    columns = []
    for i, kind in enumerate(kinds):
        columns.append(
            Column(
                name=f"x{i}", kind=kind, tokenizer="{}" if kind == "text" else "",
                max_characters=characters if kind == "text" else 0, max_tokens=tokens if kind == "text" else 0,
            )
        )  # fmt: skip
    image = ImageInput(channels=3, height=side, width=side - 1, means=(0.5,), stds=(0.5,)) if side else None
    schema = Schema(task=task, targets=targets_of(task, outputs), columns=tuple(columns), image=image, num_rows=n)
    sizes = InputSizes(
        num_numbers=numbers if "number" in kinds else 0, ranks=tuple(range(ranks)), category_sizes=tuple(categories),
        vocabulary_sizes=tuple(words), series_channels=2 if "series" in kinds else 0, max_steps=steps,
    )  # fmt: skip
    return choose(schema, NetworkSettings(**settings), recipe or {}, sizes=sizes, num_valid=num_valid)


def designed(n: int, *args: Any, **given: Any) -> dict[str, Any]:
    """Return the family, the network's arguments and the recipe in one dict."""
    made = choice(n, *args, **given)
    fields = {name: getattr(made.recipe, name) for name in made.recipe.__dataclass_fields__}
    return {"family": made.blueprint.family, **fields, **made.blueprint.arguments}


def series(n: int, task: Task = "binary", **given: Any) -> dict[str, Any]:
    return designed(n, ("series",), task, **given)


def images(n: int, task: Task = "binary", **given: Any) -> dict[str, Any]:
    return designed(n, (), task, **({"side": 28} | given))


def text(n: int, task: Task = "binary", **given: Any) -> dict[str, Any]:
    return designed(n, ("text",), task, **({"words": (500,)} | given))


# Rows of tables


def test_a_table_is_read_by_eight_light_perceptrons() -> None:
    made = designed(1000)
    assert made["family"] == "tabm"
    assert {name: made[name] for name in ("num_pieces", "members", "widths", "dropout", "weight_decay")} == {
        "num_pieces": 32, "members": 8, "widths": [128, 128], "dropout": 0.1, "weight_decay": 0.0003,
    }  # fmt: skip
    assert (made["lr"], made["clip_norm"], made["eval_batch_size"]) == (0.002, 1.0, 4096)
    assert (made["scheduler"], made["optimizer"], made["optimizer_flavour"]) == (None, "AdamW", "fused")


@pytest.mark.parametrize(
    ("n", "columns", "size"),
    [
        (1_999, 4, 8),
        (2_000, 4, 16),
        (2_000, 128, 16),
        (2_000, 256, 8),
        (1_999, 512, 4),
        (9_000, 3_000, 2),
        (5_000, 0, 16),
    ],
)
def test_tokens_of_a_table_are_small_for_few_rows_and_for_many_columns(n: int, columns: int, size: int) -> None:
    assert designed(n, ranks=columns)["token_size"] == size
    assert designed(n, ranks=columns // 2, categories=[3] * (columns - columns // 2))["token_size"] == size


@pytest.mark.parametrize(
    ("n", "batch", "ema"),
    [(1_499, 64, 0.99), (1_500, 128, 0.99), (7_999, 128, 0.99), (8_000, 256, 0.99), (9_999, 256, 0.99),
     (10_000, 256, 0.995)],
)  # fmt: skip
def test_batches_and_the_average_of_a_table_grow_with_its_rows(n: int, batch: int, ema: float) -> None:
    made = designed(n)
    assert (made["batch_size"], made["ema"]) == (batch, ema)


@pytest.mark.parametrize(
    ("n", "effort", "valid", "epochs", "patience"),
    [
        (500, "normal", 100, 400, 24), (500, "quick", 100, 160, 10), (500, "thorough", 100, 1000, 60),
        (100_000, "normal", 100, 400, 24), (400_000, "normal", 100, 200, 12), (400_000, "normal", 1, 200, 12),
        (10**10, "normal", 100, 4, 4), (500, "normal", 0, 30, 24), (500, "thorough", 0, 75, 60),
        (10**8, "quick", 0, 4, 4), (2 * 10**7, "normal", 100, 28, 4),
    ],
)  # fmt: skip
def test_epochs_of_a_table_are_ended_by_patience_or_fixed(
    n: int, effort: str, valid: int, epochs: int, patience: int
) -> None:
    made = designed(n, effort=effort, num_valid=valid)
    assert (made["epochs"], made["patience"]) == (epochs, patience)


def test_without_a_word_about_validation_there_is_none() -> None:
    schema = Schema(
        task="binary", targets=targets_of("binary", 1), columns=(Column(name="x", kind="number"),), num_rows=9
    )
    assert choose(schema, NetworkSettings(), {}).recipe.epochs == 30


def test_what_the_perceptron_alone_has_asks_for_it() -> None:
    assert designed(500, activation="gelu")["family"] == "mlp"
    assert designed(500, batch_norm=True)["batch_norm"] is True
    assert designed(500, dropout=0.3)["family"] == "tabm"


@pytest.mark.parametrize(
    ("n", "widths", "dropout", "lr", "batch"),
    [
        (1_999, [64, 64], 0.2, 0.003, 16), (2_000, [128, 128], 0.2, 0.003, 16), (9_999, [128, 128], 0.2, 0.003, 128),
        (10_000, [256] * 3, 0.3, 0.002, 128), (400, [64, 64], 0.2, 0.003, 16), (3_200, [128, 128], 0.2, 0.003, 32),
        (10**6, [256] * 3, 0.3, 0.002, 256),
    ],
)  # fmt: skip
def test_a_perceptron_grows_with_its_rows(n: int, widths: list[int], dropout: float, lr: float, batch: int) -> None:
    made = designed(n, task="regression", network="mlp")
    assert (made["widths"], made["dropout"], made["lr"], made["batch_size"]) == (widths, dropout, lr, batch)
    assert (made["weight_decay"], made["decay_norm_and_bias"], made["clip_norm"]) == (0.01, False, 1.0)
    assert (made["scheduler"], made["scheduler_args"], made["eval_batch_size"]) == ("OneCycleLR", CYCLE, 4096)
    assert (made["activation"], made["batch_norm"]) == ("relu", False)


@pytest.mark.parametrize(
    ("n", "effort", "epochs", "patience"),
    [(500, "normal", 40, 14), (9_999, "normal", 40, 14), (10_000, "normal", 30, 10), (100_000, "normal", 30, 10),
     (150_000, "normal", 24, 8),
     (400_000, "normal", 15, 5), (10**8, "normal", 10, 5), (10**8, "quick", 4, 5), (500, "thorough", 100, 34),
     (500, "quick", 16, 6)],
)  # fmt: skip
def test_epochs_of_a_perceptron(n: int, effort: str, epochs: int, patience: int) -> None:
    made = designed(n, task="regression", network="mlp", effort=effort)
    assert (made["epochs"], made["patience"]) == (epochs, patience)


@pytest.mark.parametrize(
    ("n", "task", "numbers", "has_waves"),
    [(4_999, "binary", 3, False), (5_000, "binary", 3, True), (5_000, "binary", 1, True), (5_000, "binary", 0, False),
     (9_000, "multiclass", 3, True), (9_000, "regression", 3, False)],
)  # fmt: skip
def test_waves_over_numbers_are_for_classes_of_many_rows(n: int, task: Task, numbers: int, has_waves: bool) -> None:
    made = designed(n, task=task, numbers=numbers, outputs=1 + 2 * (task == "multiclass"), network="mlp")
    assert made["number_size"] == (8 if has_waves else 0)
    assert (made["epochs"], made["lr"]) == ((15, 0.001) if has_waves else (40, 0.003))


@pytest.mark.parametrize(
    ("size", "width"), [(1, 2), (2, 2), (3, 3), (10, 6), (100, 21), (200, 31), (300, 32), (9_999, 32)]
)
def test_a_category_becomes_numbers_by_the_root_of_its_size(size: int, width: int) -> None:
    assert designed(500, categories=[size], network="mlp")["embedding_sizes"] == [width]


# Rows of several kinds


@pytest.mark.parametrize(("n", "batch"), [(1_000, 16), (2_263, 32), (2_262, 16), (4_525, 32), (4_526, 64), (10**6, 64)])
def test_batches_of_mixed_rows_are_a_hundredth_between_16_and_64(n: int, batch: int) -> None:
    assert text(n)["batch_size"] == batch


def test_text_alone_goes_to_the_answer_directly() -> None:
    made = text(1_000)
    assert (made["family"], made["widths"], made["dropout"]) == ("mixed", [], 0.5)
    assert (made["token_size"], made["reader"], made["token_dropout"]) == (64, "mean", 0.3)
    assert (made["lr"], made["ema"], made["eval_batch_size"], made["scheduler"]) == (0.003, 0.99, 512, None)


def test_a_table_beside_texts_is_that_of_a_table_alone() -> None:
    made, alone = designed(1_000, ("text", "number"), words=(500,)), designed(1_000, ("number",))
    assert (made["widths"], made["dropout"], made["members"], made["table_alone"]) == ([128], 0.5, 8, 0.5)
    assert (made["curve_size"], made["ranks"]) == (alone["token_size"], alone["ranks"])
    for name in ("lr", "weight_decay", "epochs", "batch_size", "ema", "patience", "scheduler"):
        assert made[name] == alone[name]
    assert designed(1_000, ("text", "category"), words=(500,), categories=[5])["widths"] == [128]
    former = designed(1_000, ("text", "number"), words=(500,), network_args={"members": 0})
    assert (former["widths"], former["dropout"], former["scheduler"]) == ([128], 0.3, None)


@pytest.mark.parametrize(
    ("tokens", "characters", "has_ngrams"), [(11, 60, False), (12, 60, True), (3, 37, True), (3, 36, False)]
)
def test_pieces_of_words_are_read_beside_a_table_where_texts_are_sentences(
    tokens: int, characters: int, has_ngrams: bool
) -> None:
    made = designed(1_000, ("text", "number"), words=(500,), tokens=tokens, characters=characters)
    assert made["ngram_buckets"] == (2**17 if has_ngrams else 0)
    assert made.get("ngram_strength") == (0.3 if has_ngrams else None)
    assert (made["patience"], made["widths"]) == ((12, []) if has_ngrams else (24, [128]))


@pytest.mark.parametrize(
    ("effort", "valid", "epochs", "patience"),
    [
        ("normal", 100, 40, 5),
        ("normal", 0, 10, 5),
        ("quick", 1, 16, 2),
        ("thorough", 100, 100, 12),
        ("thorough", 0, 25, 12),
    ],
)
def test_epochs_of_text(effort: str, valid: int, epochs: int, patience: int) -> None:
    made = text(1_000, effort=effort, num_valid=valid)
    assert (made["epochs"], made["patience"]) == (epochs, patience)


@pytest.mark.parametrize(
    ("outputs", "columns", "characters", "buckets"),
    [(1, 1, 200, 2**17), (32, 1, 200, 2**17), (64, 1, 200, 2**16), (32, 2, 200, 2**16), (10_000, 1, 200, 2**10),
     (4_096, 1, 200, 2**10), (2_048, 1, 200, 2**11), (3, 1, 0, 0)],
)  # fmt: skip
def test_pieces_of_words_share_four_million_numbers(outputs: int, columns: int, characters: int, buckets: int) -> None:
    made = text(1_000, "multilabel", outputs=outputs, words=(500,) * columns, characters=characters)
    assert made["ngram_buckets"] == buckets


def test_images_and_series_beside_other_columns() -> None:
    made = designed(900, ("image", "number"), side=24)
    assert (made["image_channels"], made["image_stride"], made["augment"]) == (3, 2, ("shift",))
    assert (made["epochs"], made["patience"], made["eval_batch_size"], made["dropout"]) == (400, 16, 256, 0.3)
    assert (made["widths"], made["members"], made["scheduler"]) == ([128], 8, None)
    sizes = [designed(n, ("image", "number"), side=24)["batch_size"] for n in (800, 1_100, 1_200, 2_300, 9_000)]
    assert sizes == [16, 16, 32, 64, 64]
    assert designed(900, ("image", "number"), side=24, effort="quick")["augment"] == ()
    assert designed(900, ("image", "number"), side=24, effort="quick")["epochs"] == 160
    made = designed(900, ("series", "number"))
    assert (made["series_channels"], made["eval_batch_size"], made["epochs"]) == (2, 256, 400)
    assert (made["augment"], made["patience"]) == ((), 16)
    assert designed(900, ("text", "series"), words=(500,), effort="thorough")["epochs"] == 50
    assert designed(900, ("text", "series"), words=(500,))["ema"] is None


# Series


@pytest.mark.parametrize(
    ("n", "steps", "family"),
    [(499, 40, "rocket"), (500, 40, "inception"), (100, 16, "rocket"), (100, 15, "inception"), (499, 16, "rocket")],
)
def test_convolutions_are_learnt_from_many_series_or_short_ones(n: int, steps: int, family: str) -> None:
    assert series(n, steps=steps)["family"] == family


@pytest.mark.parametrize("name", ["width", "depth", "kernel_sizes", "stride", "dropout"])
def test_an_argument_that_learnt_convolutions_alone_have_asks_for_them(name: str) -> None:
    value = [9] if name == "kernel_sizes" else 0.1 if name == "dropout" else 2
    assert series(100, network_args={name: value})["family"] == "inception"


def test_learnt_convolutions_are_narrow_and_of_three_lengths() -> None:
    made = series(1_000)
    assert (made["width"], made["depth"], made["kernel_sizes"], made["dropout"]) == (16, 6, [9, 19, 39], 0.2)
    assert (made["lr"], made["weight_decay"], made["decay_norm_and_bias"]) == (0.001, 0.01, False)
    assert (made["scheduler_args"], made["eval_batch_size"], made["clip_norm"]) == (CYCLE, 256, 1.0)
    made = series(1_000, network="recurrent")
    assert (made["cell"], made["hidden_size"], made["num_layers"], made["pooling"]) == ("gru", 64, 2, "all")


@pytest.mark.parametrize(("steps", "stride"), [(40, 1), (256, 1), (257, 2), (512, 2), (513, 3)])
def test_long_series_are_read_in_means_of_their_steps(steps: int, stride: int) -> None:
    assert series(1_000, steps=steps)["stride"] == stride


@pytest.mark.parametrize(
    ("n", "effort", "batch", "epochs"),
    [(50, "normal", 8, 96), (10, "normal", 8, 150), (160, "normal", 16, 60), (640, "normal", 64, 60),
     (10_000, "normal", 64, 10), (640, "quick", 64, 24), (640, "thorough", 64, 150), (2_000, "thorough", 64, 48)],
)  # fmt: skip
def test_learnt_convolutions_take_some_600_updates(n: int, effort: str, batch: int, epochs: int) -> None:
    made = series(n, network="inception", effort=effort)
    assert (made["batch_size"], made["epochs"]) == (batch, epochs)


def test_fixed_convolutions_have_2520_features_and_a_firm_decay() -> None:
    made = series(120, "multiclass", outputs=3)
    assert (made["num_dilations"], made["num_thresholds"], made["max_places"], made["max_steps"]) == (15, 30, 512, 40)
    assert (made["lr"], made["weight_decay"], made["label_smoothing"]) == (0.001, 0.1, 0.1)
    assert (made["batch_size"], made["eval_batch_size"], made["clip_norm"]) == (32, 64, 1.0)
    assert series(120, label := "binary")["label_smoothing"] == 0.0, label
    made = series(120, "regression")
    assert (made["lr"], made["weight_decay"], made["label_smoothing"]) == (0.0001, 10.0, 0.0)
    assert series(120, steps=0, network="rocket")["max_steps"] == 1


@pytest.mark.parametrize(
    ("n", "effort", "valid", "epochs", "patience"),
    [
        (120, "normal", 50, 60, 10), (120, "normal", 49, 60, None), (400, "normal", 0, 26, None),
        (480, "normal", 49, 21, None), (499, "quick", 0, 20, None), (120, "thorough", 50, 150, 25),
        (120, "quick", 50, 24, 4), (60, "thorough", 0, 150, None), (120, "quick", 0, 24, None),
    ],
)  # fmt: skip
def test_fixed_convolutions_stop_by_validation_where_there_is_enough(
    n: int, effort: str, valid: int, epochs: int, patience: int | None
) -> None:
    made = series(n, effort=effort, num_valid=valid)
    assert (made["epochs"], made["patience"]) == (epochs, patience)


@pytest.mark.parametrize(
    ("valid", "monitor"), [(0, "valid_loss"), (1, "train_loss"), (49, "train_loss"), (50, "valid_loss")]
)
def test_few_series_to_validate_on_choose_no_epoch(valid: int, monitor: str) -> None:
    for network in ("rocket", "inception", "recurrent"):
        assert series(120, num_valid=valid, network=network)["monitor"] == monitor
    assert series(120, num_valid=20, recipe={"patience": 3})["monitor"] == "valid_loss"
    assert designed(120, num_valid=valid)["monitor"] == "valid_loss"


# Images


@pytest.mark.parametrize(
    ("n", "side", "family"), [(2_000, 48, "convnet"), (2_000, 49, "resnet"), (1_999, 128, "convnet")]
)
def test_many_large_images_have_shortcuts(n: int, side: int, family: str) -> None:
    assert images(n, side=side)["family"] == family


@pytest.mark.parametrize(("n", "ema"), [(1_999, 0.99), (2_000, None), (100, None)])
def test_few_images_average_their_weights(n: int, ema: float | None) -> None:
    assert images(n)["ema"] == ema  # 100 images have 280 updates, too few for it


@pytest.mark.parametrize(
    ("side", "effort", "stride"),
    [(32, "normal", 1), (33, "normal", 2), (64, "normal", 2), (65, "normal", 4), (19, "quick", 1), (20, "quick", 2),
     (28, "quick", 2), (49, "quick", 2)],
)  # fmt: skip
def test_the_first_layer_shrinks_large_images(side: int, effort: str, stride: int) -> None:
    assert images(1_000, side=side, effort=effort)["stem_stride"] == stride


@pytest.mark.parametrize(
    ("n", "side", "effort", "widths"),
    [
        (1_999, 28, "normal", [24, 48, 96, 192]), (2_000, 28, "normal", [16, 48, 96, 192]),
        (2_000, 40, "normal", [32, 64, 128, 256]), (1_999, 28, "quick", [24, 48, 96, 192]),
        (2_000, 28, "quick", [24, 48, 96, 128]), (1_999, 80, "normal", [24, 48, 96, 192]),
    ],
)  # fmt: skip
def test_widths_of_convolutions(n: int, side: int, effort: str, widths: list[int]) -> None:
    assert images(n, side=side, effort=effort)["widths"] == widths


def test_quick_images_pool_first_and_drop_nothing() -> None:
    made = images(1_000, effort="quick")
    assert (made["dropout"], made["depth"], made["pool_first"], made["lr"]) == (0.0, 1, True, 0.012)
    made = images(1_000)
    assert (made["dropout"], made["depth"], made["pool_first"], made["lr"]) == (0.2, 1, False, 0.004)
    assert (made["weight_decay"], made["decay_norm_and_bias"], made["eval_batch_size"]) == (0.05, False, 256)
    assert (made["scheduler"], made["memory_format"]) == ("OneCycleLR", "channels_last")
    assert made["scheduler_args"] == {"pct_start": 0.25, "anneal_strategy": "linear", "cycle_momentum": False}
    made = images(2_000, side=80, effort="quick")
    assert (made["dropout"], made["blocks"], made["lr"]) == (0.2, 1, 0.004)


def test_labels_of_several_classes_are_smoothed_lightly() -> None:
    assert images(1_000, "multiclass", outputs=3)["label_smoothing"] == 0.05
    assert images(1_000, "binary")["label_smoothing"] == 0.0
    assert designed(1_000, task="multiclass", outputs=3)["label_smoothing"] == 0.0
    other = images(1_000, "multiclass", outputs=3, recipe={"criterion": "MultiMarginLoss"})
    assert other["label_smoothing"] == 0.0
    same = images(1_000, "multiclass", outputs=3, recipe={"criterion": "CrossEntropyLoss"})
    assert same["label_smoothing"] == 0.05


@pytest.mark.parametrize(
    ("n", "side", "effort", "batch", "epochs"),
    [
        (1_600, 28, "normal", 16, 28), (400, 28, "normal", 16, 40), (400, 28, "thorough", 16, 100),
        (12_800, 28, "normal", 128, 28), (10**6, 28, "normal", 128, 4), (12_800, 28, "quick", 128, 17),
        (10**6, 28, "quick", 128, 3),
        (12_800, 80, "quick", 128, 11), (10**6, 80, "quick", 128, 4), (12_800, 28, "thorough", 128, 60),
    ],
)  # fmt: skip
def test_images_take_some_2800_updates(n: int, side: int, effort: str, batch: int, epochs: int) -> None:
    made = images(n, side=side, effort=effort)
    assert (made["batch_size"], made["epochs"]) == (batch, epochs)


@pytest.mark.parametrize(
    ("n", "effort", "augment"),
    [(19_999, "normal", ("shift",)), (20_000, "normal", ()), (1_000, "quick", ()), (50_000, "thorough", ("shift",))],
)
def test_few_images_are_moved(n: int, effort: str, augment: tuple[str, ...]) -> None:
    assert images(n, effort=effort)["augment"] == augment


# What follows from the data and from what was asked for


def test_the_criterion_goes_with_the_task() -> None:
    assert [designed(500, task=task, outputs=k)["criterion"] for task, k in (
        ("binary", 1), ("multiclass", 3), ("multilabel", 2), ("regression", 2)
    )] == ["bce", "cross-entropy", "bce", "mse"]  # fmt: skip
    assert designed(500, task="regression", recipe={"criterion": "l1"})["criterion"] == "l1"
    with pytest.raises(SettingError, match="does not fit the task binary"):
        designed(500, recipe={"criterion": "mse"})


def test_a_last_batch_of_one_row_is_dropped_where_batch_norm_would_meet_it() -> None:
    assert not series(641, network="inception", recipe={"batch_size": 60})["drop_last"]
    assert series(661, network="inception", recipe={"batch_size": 60})["drop_last"]
    assert series(641, network="inception")["drop_last"]
    assert not series(642, network="inception")["drop_last"]
    assert not series(641, network="recurrent")["drop_last"]
    assert not designed(641)["drop_last"]
    assert designed(641, network="mlp", batch_norm=True, recipe={"batch_size": 64})["drop_last"]
    assert not designed(641, network="mlp", recipe={"batch_size": 64})["drop_last"]


@pytest.mark.parametrize(
    ("recipe", "has_cycle"),
    [({"epochs": 1}, False), ({"epochs": 2}, True), ({"max_steps": 19}, False), ({"max_steps": 20}, True),
     ({"limit": 1, "epochs": 19}, False), ({"limit": 1, "epochs": 20}, True)],
)  # fmt: skip
def test_fewer_than_20_updates_have_no_cycle(recipe: dict[str, Any], has_cycle: bool) -> None:
    made = designed(160, task="regression", network="mlp", recipe=recipe)  # 10 batches an epoch
    assert (made["scheduler"] is not None) == has_cycle
    assert bool(made["scheduler_args"]) == has_cycle
    kept = designed(160, network="mlp", recipe={**recipe, "scheduler": "OneCycleLR"})
    assert kept["scheduler"] == "OneCycleLR"


@pytest.mark.parametrize(("steps", "ema"), [(499, None), (500, 0.99)])
def test_fewer_than_500_updates_have_no_average(steps: int, ema: float | None) -> None:
    assert designed(640, recipe={"max_steps": steps})["ema"] == ema
    assert designed(640, recipe={"max_steps": steps, "ema": 0.9})["ema"] == 0.9


def test_another_optimizer_or_schedule_keeps_its_own_defaults() -> None:
    made = designed(640, recipe={"optimizer": "SGD"})
    plain = choice(640, recipe={"optimizer": "SGD"})
    assert (made["optimizer"], made["optimizer_flavour"]) == (
        "SGD",
        type(plain.recipe)(criterion="mse").optimizer_flavour,
    )
    assert made["weight_decay"] != 0.0003
    assert designed(640, network="mlp", recipe={"scheduler": "StepLR"})["scheduler_args"] == {}
    assert plain.reasons["optimizer"] == "as asked for"


def test_a_dry_run_is_one_epoch() -> None:
    assert designed(640, recipe={"limit": 2})["epochs"] == 1
    assert designed(640, recipe={"limit": 2, "epochs": 7})["epochs"] == 7
    assert choice(640, recipe={"limit": 2}).reasons["epochs"] == "a dry run"


def test_the_same_call_gives_the_same_network() -> None:
    assert designed(640)["seed"] == 0
    assert designed(640, recipe={"seed": 3})["seed"] == 3


def test_a_family_that_does_not_take_the_data_is_refused_with_those_that_do() -> None:
    with pytest.raises(NetworkError, match="does not take tables"):
        designed(500, network="convnet")
    with pytest.raises(NetworkError, match="there is no network"):
        designed(500, network="mlpp")
    with pytest.raises(NetworkError, match="would be ignored"):
        designed(500, network_args={"cell": "gru"})


def test_reasons_name_the_numbers_that_they_are_about() -> None:
    reasons = choice(250, network="mlp", recipe={"epochs": 1, "batch_size": 32}).reasons
    assert reasons["scheduler"] == "8 updates are too few for a cycle"
    assert (
        choice(640, recipe={"max_steps": 30}).reasons["ema"] == "30 updates are too few for an average of the weights"
    )
    assert choice(120, ("series",), num_valid=20).reasons["monitor"].startswith("20 validation rows")
    assert "read as means of 2" in choice(600, ("series",), steps=300).reasons["stride"]
    assert "read as means" not in choice(600, ("series",), steps=256).reasons["stride"]
