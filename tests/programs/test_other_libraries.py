"""Models, metrics, optimizers and schedulers of other libraries by `fit`. `./check --slow` makes their environments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import luthier
from tests.problems import mlp, same_weights, table
from tests.training.test_resume import CopyAt

pytestmark = pytest.mark.slow
X, Y = table(96)
V, W = table(40, seed=2)
LAST: dict[str, Any] = {"restore_best": False, "verbose": False, "epochs": 3}


def loaders() -> tuple[Any, Any]:
    train: Any = list(zip(X, Y, strict=True))
    valid: Any = list(zip(V, W, strict=True))
    return DataLoader(train, 16, shuffle=True), DataLoader(valid, 16)


def net() -> nn.Module:
    torch.manual_seed(0)
    return mlp()


def plain_loop(
    module: nn.Module,
    optimizer: Any,
    *,
    after_step: Callable[[int], Any] = lambda step: None,
    after_epoch: Callable[[int], Any] = lambda epoch: None,
    twice: bool = False,
) -> list[tuple[float, float]]:
    """Train as one writes it; return the mean losses of each epoch, in training and validation."""
    torch.manual_seed(1)
    train, valid = loaders()
    step, losses = 0, []
    for epoch in range(3):
        module.train()
        if hasattr(optimizer, "train"):
            optimizer.train()
        sums = [0.0, 0.0]
        for x, y in train:

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(module(x), y)
                loss.backward()
                return loss

            sums[0] += closure().item() * len(x)
            optimizer.step(*([closure] if twice else []))
            step += 1
            after_step(step)
        module.eval()
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        with torch.no_grad():
            for x, y in valid:
                sums[1] += F.cross_entropy(module(x), y).item() * len(x)
        after_epoch(epoch + 1)
        losses.append((sums[0] / len(X), sums[1] / len(V)))
    return losses


def fitted(module: nn.Module, **more: Any) -> luthier.Result:
    torch.manual_seed(1)
    return luthier.fit(module, *loaders(), criterion=nn.CrossEntropyLoss(), **LAST, **more)


def losses_of(result: luthier.Result) -> list[tuple[float, float]]:
    return [(row["train_loss"], row["valid_loss"]) for row in result.record.epochs]


# transformers


def texts(n: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 24, (n, 10), generator=g)
    lengths = torch.randint(4, 11, (n, 1), generator=g)
    mask = (torch.arange(10) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": (ids[:, 0] > 12).long()}


def reader() -> Any:
    transformers: Any = pytest.importorskip("transformers", reason="transformers: see ./check --slow")
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=10, num_labels=2, initializer_range=0.14,
    ))  # fmt: skip


def text_loaders() -> tuple[Any, Any]:
    made = []
    for seed, n in ((0, 64), (1, 24)):
        parts = texts(n, seed)
        items: Any = [{name: values[i] for name, values in parts.items()} for i in range(n)]
        made.append(DataLoader(items, 8, shuffle=seed == 0))
    return made[0], made[1]


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup", "cosine_with_restarts", "polynomial"])
def test_a_model_of_transformers_and_its_schedule_give_the_bits_of_the_loop(kind: str) -> None:
    ours, theirs = reader(), reader()
    from transformers import get_scheduler

    def moved(module: nn.Module) -> tuple[Any, Any]:
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
        return optimizer, get_scheduler(kind, optimizer, num_warmup_steps=5, num_training_steps=24)

    optimizer, scheduler = moved(ours)
    torch.manual_seed(1)
    result = luthier.fit(
        ours, *text_loaders(), criterion="cross_entropy", metrics=["accuracy"], optimizer=optimizer,
        scheduler=scheduler, **LAST,
    )  # fmt: skip
    optimizer, scheduler = moved(theirs)
    torch.manual_seed(1)
    train, valid = text_loaders()
    rows = []
    for _ in range(3):
        theirs.train()
        total = 0.0
        for batch in train:
            loss = theirs(**batch).loss
            loss.backward()
            optimizer.step()
            rate = optimizer.param_groups[0]["lr"]
            scheduler.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch["labels"])
        theirs.eval()
        with torch.no_grad():
            right = sum(int((theirs(**batch).logits.argmax(1) == batch["labels"]).sum()) for batch in valid)
        rows.append({"train_loss": total / 64, "valid_accuracy": right / 24, "lr": rate})
    same_weights(ours, theirs)
    assert [{name: row[name] for name in rows[0]} for row in result.record.epochs] == rows


def test_a_model_of_transformers_is_saved_loaded_resumed_and_predicts_the_same(tmp_path: Path) -> None:
    def run(place: Path, **more: Any) -> luthier.Result:
        from transformers import get_scheduler

        module = reader()
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
        scheduler = get_scheduler("linear", optimizer, num_warmup_steps=5, num_training_steps=24)
        return luthier.fit(
            module, *text_loaders(), criterion="cross_entropy", optimizer=optimizer, scheduler=scheduler, seed=3,
            run=place, checkpoint_every_steps=3, **LAST, **more,
        )  # fmt: skip

    reader()  # skips where there is no transformers
    result = run(tmp_path / "run", callbacks=[CopyAt(13, tmp_path / "cut")])
    same_weights(run(tmp_path / "cut").module, result.module)
    fresh = reader()
    asked = {name: values for name, values in texts(24, 1).items() if name != "labels"}
    loaded = luthier.load(tmp_path / "run", module=fresh)
    same_weights(fresh, result.module)
    with torch.no_grad():
        expected = result.module.eval()(**asked).logits.argmax(1)
    assert torch.equal(loaded.predict(asked), expected)
    assert torch.equal(result.model.predict(asked), expected)


# timm


@pytest.mark.parametrize("in_epochs", [True, False])
@pytest.mark.parametrize("name", ["adamw", "lion", "nadamw", "sgd"])
def test_an_optimizer_and_a_scheduler_of_timm_give_the_bits_of_the_loop(
    name: str, in_epochs: bool, tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="timm and torchvision need another torch: see ./check --slow")
    from timm.optim import create_optimizer_v2
    from timm.scheduler.cosine_lr import CosineLRScheduler

    def moved(module: nn.Module) -> tuple[Any, Any]:
        optimizer = create_optimizer_v2(module, name, lr=1e-2, weight_decay=0.05)
        numbers = {"t_initial": 3, "warmup_t": 1} if in_epochs else {"t_initial": 18, "warmup_t": 4}
        return optimizer, CosineLRScheduler(optimizer, **numbers, warmup_lr_init=1e-4, t_in_epochs=in_epochs)

    def run(place: Path, **more: Any) -> luthier.Result:
        module = net()
        optimizer, scheduler = moved(module)
        return fitted(module, optimizer=optimizer, scheduler=scheduler, run=place, checkpoint_every_steps=2, **more)

    result, theirs = run(tmp_path / "run", callbacks=[CopyAt(9, tmp_path / "cut")]), net()
    optimizer, scheduler = moved(theirs)
    losses = plain_loop(theirs, optimizer, after_step=scheduler.step_update, after_epoch=scheduler.step)
    same_weights(result.module, theirs)
    assert losses_of(result) == losses
    same_weights(run(tmp_path / "cut").module, theirs)


def test_a_model_of_timm_gives_the_bits_of_the_loop() -> None:
    timm: Any = pytest.importorskip("timm", reason="timm and torchvision need another torch: see ./check --slow")
    x, y = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(timm.create_model("test_resnet", num_classes=3, drop_rate=0.1, drop_path_rate=0.1))
    items: Any = list(zip(x, y, strict=True))
    torch.manual_seed(1)
    train: Any = DataLoader(items, 16, shuffle=True)
    luthier.fit(models[0], train, criterion="cross_entropy", optimizer="AdamW", lr=1e-3, **LAST)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(models[1].parameters(), lr=1e-3)
    models[1].train()
    for _ in range(3):
        for a, b in train:
            optimizer.zero_grad()
            F.cross_entropy(models[1](a), b).backward()
            optimizer.step()
    same_weights(models[0], models[1])


# torchmetrics


def test_metrics_of_torchmetrics_are_theirs_on_the_whole_split() -> None:
    tm: Any = pytest.importorskip("torchmetrics", reason="torchmetrics: see ./check --slow").classification
    from torchmetrics import MetricCollection

    def made() -> tuple[Any, Any, Any]:
        # one of them is better low: the others are not, and one gives a figure a class
        several = {
            "mean_f1": tm.MulticlassF1Score(3), "calibration": tm.MulticlassCalibrationError(3),
            "precision": tm.MulticlassPrecision(3, average=None),
        }  # fmt: skip
        return tm.MulticlassAUROC(3), MetricCollection(several), tm.MulticlassRecall(3, average=None)

    settings: dict[str, Any] = {"optimizer": "SGD", "lr": 0.1, "verbose": False, "epochs": 3}
    torch.manual_seed(1)
    result = luthier.fit(
        net(), *loaders(), criterion="cross_entropy", metrics=made(), monitor="valid_mean_f1", **settings
    )
    rows = result.record.epochs
    best = max(rows, key=lambda row: row["valid_mean_f1"])
    with torch.no_grad():
        outputs = result.module.eval()(V)
    auc, both, recall = made()
    assert best["valid_multiclass_auroc"] == pytest.approx(float(auc(outputs, W)), abs=1e-7)
    found = both(outputs, W)
    for i, value in enumerate(found.pop("precision")):
        assert best[f"valid_precision_{i}"] == pytest.approx(float(value), abs=1e-7)
    for name, value in found.items():
        assert best[f"valid_{name}"] == pytest.approx(float(value), abs=1e-7)
    for i, value in enumerate(recall(outputs, W)):
        assert best[f"valid_multiclass_recall_{i}"] == pytest.approx(float(value), abs=1e-7)


def test_a_metric_that_is_better_low_is_watched_so() -> None:
    tm: Any = pytest.importorskip("torchmetrics", reason="torchmetrics: see ./check --slow").classification
    torch.manual_seed(1)
    result = luthier.fit(
        net(), *loaders(), criterion="cross_entropy", metrics={"ece": tm.MulticlassCalibrationError(3)},
        monitor="valid_ece", optimizer="SGD", lr=0.1, verbose=False, epochs=4,
    )  # fmt: skip
    figures = [row["valid_ece"] for row in result.record.epochs]
    with torch.no_grad():
        kept = tm.MulticlassCalibrationError(3)(result.module.eval()(V), W)
    assert float(kept) == pytest.approx(min(figures), abs=1e-7)


# schedulefree and pytorch-optimizer


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"])
def test_a_schedule_free_optimizer_gives_the_bits_of_the_loop(name: str, tmp_path: Path) -> None:
    schedulefree: Any = pytest.importorskip("schedulefree", reason="schedulefree: see ./check --slow")

    def run(place: Path, **more: Any) -> luthier.Result:
        module = net()
        optimizer = getattr(schedulefree, name)(module.parameters(), lr=1e-2)
        return fitted(module, optimizer=optimizer, run=place, checkpoint_every_steps=2, **more)

    result, theirs = run(tmp_path / "run", callbacks=[CopyAt(9, tmp_path / "cut")]), net()
    optimizer = getattr(schedulefree, name)(theirs.parameters(), lr=1e-2)
    assert losses_of(result) == plain_loop(theirs, optimizer)
    same_weights(result.module, theirs)
    same_weights(run(tmp_path / "cut").module, theirs)


@pytest.mark.parametrize("name", ["Lion", "ADOPT", "SAM", "LookSAM", "FriendlySAM"])
def test_an_optimizer_of_pytorch_optimizer_gives_the_bits_of_the_loop(name: str) -> None:
    library: Any = pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer: see ./check --slow")
    is_sharp = name.endswith("SAM")

    def moved(module: nn.Module) -> Any:
        cls = getattr(library, name)
        if is_sharp:
            return cls(module.parameters(), base_optimizer=torch.optim.SGD, lr=0.05, momentum=0.9)
        return cls(module.parameters(), lr=1e-3)

    ours, theirs = net(), net()
    result = fitted(ours, optimizer=moved(ours))
    losses = plain_loop(theirs, moved(theirs), twice=is_sharp)
    same_weights(ours, theirs)
    assert losses_of(result) == losses
