"""Own classes and given weights, by the same command: trained, resumed, ejected, and never run by a name in a file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import luthier
from luthier.errors import (
    BundleError,
    LuthierError,
    MissingPackageError,
    NetworkError,
    RunError,
    SettingError,
    TrainingError,
)
from luthier.pipeline.check import check_source
from luthier.training.freezing import freeze, start_training
from tests.ejection.test_eject import run_script, weights_of
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

TABLES = '''
import torch
from torch import nn

class Net(nn.Module):
    """Takes numbers and categories, as the design's own networks do."""

    def __init__(self, num_numbers, category_sizes, num_outputs, hidden=8):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 2) for size in category_sizes)
        self.body = nn.Sequential(nn.Linear(num_numbers + 2 * len(category_sizes), hidden), nn.Tanh())
        self.head = nn.Linear(hidden, num_outputs)

    def forward(self, numbers, categories):
        embedded = [table(categories[:, i]) for i, table in enumerate(self.embeddings)]
        return self.head(self.body(torch.cat([numbers, *embedded], dim=1)))
'''
IMAGES = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, channels, num_classes):
        trunk = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3))
        super().__init__(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""
FAST: dict[str, Any] = {"epochs": 4, "threads": 1}


def table(place: Path, n: int = 160) -> Path:
    g = np.random.default_rng(0)
    x, kind = g.normal(size=n), g.choice(["a", "b"], n)
    pl.DataFrame({"x": x, "kind": kind, "y": np.where((x > 0) == (kind == "a"), "p", "q")}).write_csv(place / "d.csv")
    (place / "nets.py").write_text(TABLES)
    return place / "d.csv"


def pixels(place: Path, channels: int = 1) -> Path:
    g = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = g.integers(0, 60, (90, channels, 9, 9)) + 80 * y[:, None, None, None]
    np.savez(place / "d.npz", x=x.astype(np.uint8), y=y)
    (place / "nets.py").write_text(IMAGES)
    return place / "d.npz"


def test_an_own_class_is_trained_and_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table(tmp_path)
    network = f"{tmp_path / 'nets.py'}:Net"
    more: dict[str, Any] = {
        "target": "y",
        "network": network,
        "network_args": {"hidden": 16},
        "checkpoint_every_steps": 3,
    }
    result: Any = luthier.train(
        source, run=tmp_path / "run", epochs=30, callbacks=[CopyAt(20, tmp_path / "cut")], **more
    )
    assert type(result.module).__name__ == "Net"
    assert result.module.body[0].out_features == 16
    assert result.test["accuracy"] > 0.8
    same_weights(luthier.resume(tmp_path / "cut", trust_code=True).module, result.module)
    with pytest.raises(BundleError, match="runs no code that only a file names") as caught:
        luthier.load(tmp_path / "run")
    assert caught.value.code == "bundle-module-needed"
    expected = result.model.predict_proba(source)
    np.testing.assert_array_equal(luthier.load(tmp_path / "run", network=network).predict_proba(source), expected)
    fresh = type(result.module)(**result.model.blueprint.arguments)
    np.testing.assert_array_equal(luthier.load(tmp_path / "run", module=fresh).predict_proba(source), expected)
    monkeypatch.chdir(tmp_path)  # the run file names the class relative to itself
    assert 'family = "../nets.py:Net"' in (tmp_path / "run" / "run.toml").read_text()
    again = luthier.train("run/run.toml", run="again", network="nets.py:Net")
    same_weights(again.module, result.module)
    with pytest.raises(BundleError, match="would be ignored"):
        luthier.load(luthier.train(source, target="y", run="plain", **FAST).folder or "", network=network)


CALLS: dict[str, Callable[..., Any]] = {
    "resume": lambda **trusted: luthier.resume("run", **trusted),
    "replay": lambda **trusted: luthier.replay("run", **trusted),
    "eject": lambda **trusted: luthier.eject("run", "out", **trusted),
    "check": lambda **trusted: check_source("run", **trusted),
    "check of a run file": lambda **trusted: check_source("run/run.toml", **trusted),
    "train": lambda **trusted: luthier.train("run/run.toml", run="again", **trusted),
    "design": lambda **trusted: luthier.design("run/run.toml", **trusted),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_runs_folder_runs_no_code(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    luthier.train(table(tmp_path), target="y", network="nets.py:Net", run="run", **FAST)
    (tmp_path / "nets.py").write_text(TABLES + "\nopen('was-run', 'a').close()\n")
    for given in ({}, {"network": "mlp"}, {"network": "timm:x"}, {"network": None}):
        with pytest.raises(LuthierError) as caught:
            CALLS[call](**given)
        assert caught.value.code in ("network-not-trusted", "setting-ignored")
        assert not (tmp_path / "was-run").exists()
    assert "nets.py:Net" in caught.value.hint
    assert "trust_code=True" in caught.value.hint
    CALLS[call](trust_code=True)
    assert (tmp_path / "was-run").exists()


def test_the_runs_own_network_is_named_and_its_change_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    luthier.train(table(tmp_path), target="y", network="nets.py:Net", run="run", **FAST)
    luthier.resume("run", network="nets.py:Net")
    assert "has changed" not in caplog.text
    (tmp_path / "nets.py").write_text(TABLES + "\n")
    luthier.resume("run", network="nets.py:Net")
    assert "nets.py has changed since run began" in caplog.text
    with pytest.raises(SettingError, match="trust_code would be ignored"):
        luthier.train(tmp_path / "d.csv", target="y", trust_code=True)


def test_an_own_class_is_ejected_with_its_file(tmp_path: Path) -> None:
    source = table(tmp_path)
    luthier.train(source, target="y", network=f"{tmp_path / 'nets.py'}:Net", run=tmp_path / "run", **FAST)
    luthier.eject(tmp_path / "run", tmp_path / "out", trust_code=True)
    assert (tmp_path / "out" / "network.py").read_text() == TABLES
    assert "the weights are the run's, to the bit" in run_script(tmp_path / "out")


def test_a_class_that_imports_what_lies_beside_it_is_trained_and_not_ejected(tmp_path: Path) -> None:
    source = table(tmp_path)
    (tmp_path / "lying_beside.py").write_text(TABLES)
    (tmp_path / "nets.py").write_text("from lying_beside import Net\n")
    luthier.train(source, target="y", network=f"{tmp_path / 'nets.py'}:Net", run=tmp_path / "run", **FAST)
    with pytest.raises(RunError, match="lying_beside"):
        luthier.eject(tmp_path / "run", tmp_path / "out", trust_code=True)
    assert not (tmp_path / "out").exists()
    assert "lying_beside" in sys.modules


@pytest.mark.parametrize(
    ("text", "name", "code", "words"),
    [
        (TABLES, "Nat", "network-no-file", "Net"),
        ("1 / 0", "Net", "network-no-file", "division by zero"),
        (TABLES.replace("hidden=8", "hidden"), "Net", "network-unknown-argument", "hidden"),
        (TABLES.replace("super().__init__()", "raise OSError('no')"), "Net", "network-cannot-be-built", "no"),
        ("def Net(num_outputs): return 3", "Net", "network-cannot-be-built", "int"),
        (None, "Net", "network-no-file", "there is no"),
    ],
)
def test_what_is_no_network_is_named(text: str | None, name: str, code: str, words: str, tmp_path: Path) -> None:
    source = table(tmp_path)
    (tmp_path / "nets.py").unlink() if text is None else (tmp_path / "nets.py").write_text(text)
    with pytest.raises(NetworkError, match=words) as caught:
        luthier.train(source, target="y", network=f"{tmp_path / 'nets.py'}:{name}", run=tmp_path / "run")
    assert caught.value.code == code
    assert not (tmp_path / "run").exists()


FAILING = """

class More(Net):
    def forward(self, numbers, categories):
        return torch.cat([super().forward(numbers, categories)] * 5, dim=1)

class Pair(Net):
    def forward(self, numbers, categories):
        return super().forward(numbers, categories), None

class Wide(Net):
    def forward(self, numbers, categories):
        return self.head(self.body(numbers))

class Lazy(Net):
    def __init__(self, num_outputs):
        super().__init__(1, [2], num_outputs)
        self.head = nn.LazyLinear(num_outputs)

class Late(Net):
    calls = 0

    def forward(self, numbers, categories):
        self.calls += 1
        if self.calls == 9:
            raise KeyError("late")
        return super().forward(numbers, categories)
"""


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("More", "of shape (2, 5) for 2 samples, and binary takes a tensor of numbers of shape (2, 1)", None),
        ("Pair", "gives a tuple of length 2", None),
        ("Lazy", "has lazy layers", None),
        ("Wide", "in body.0, a Linear(in_features=4, out_features=8, bias=True): input is float32 of", "body(numbers)"),
        ("Late", "in Late: numbers is float32 of shape", "raise KeyError"),
    ],
)
def test_what_an_own_class_does_wrong_is_said_with_its_line(
    name: str, words: str, line: str | None, tmp_path: Path
) -> None:
    source = table(tmp_path)
    (tmp_path / "nets.py").write_text(TABLES + FAILING)
    with pytest.raises(NetworkError) as caught:
        luthier.train(
            source, target="y", network=f"{tmp_path / 'nets.py'}:{name}", run=tmp_path / "run", seed=0, **FAST
        )
    assert caught.value.code == "network-fails"
    assert words in caught.value.message
    if line is not None:
        number = next(i for i, text in enumerate((TABLES + FAILING).splitlines(), 1) if line in text)
        assert f"nets.py, line {number}\n" in caught.value.message
    assert (tmp_path / "run").exists() == (name == "Late")  # the others are seen before there is a run


DRAWS = """

class Draws(Net):
    def __init__(self, num_numbers, category_sizes, num_outputs):
        super().__init__(num_numbers, category_sizes, num_outputs)
        self.places, self.scale = torch.randperm(num_numbers), torch.randn(num_numbers)

    def forward(self, numbers, categories):
        return super().forward((numbers * self.scale)[:, self.places], categories)

class Half(Net):
    def __init__(self, num_numbers, category_sizes, num_outputs):
        super().__init__(num_numbers, category_sizes, num_outputs)
        self.bfloat16()

    def forward(self, numbers, categories):
        return super().forward(numbers.bfloat16(), categories)
"""


@pytest.mark.parametrize("name", ["Draws", "Half"])
def test_what_is_drawn_and_not_saved_comes_back_and_bfloat16_is_ejected(name: str, tmp_path: Path) -> None:
    source = table(tmp_path)
    (tmp_path / "nets.py").write_text(TABLES + DRAWS)
    network = f"{tmp_path / 'nets.py'}:{name}"
    result = luthier.train(source, target="y", network=network, run=tmp_path / "run", seed=3, check=False, **FAST)
    loaded = luthier.load(tmp_path / "run", network=network)
    torch.testing.assert_close(loaded.predict_proba(source), result.model.predict_proba(source), rtol=0, atol=0)
    luthier.eject(tmp_path / "run", tmp_path / "plain", trust_code=True)
    assert "the run's, to the bit" in run_script(tmp_path / "plain")


def test_what_a_callback_raises_is_not_the_networks(tmp_path: Path) -> None:
    class Fails(luthier.Callback):
        def on_step_end(self, run: Any) -> None:
            raise KeyError("mine")

    network = f"{table(tmp_path).parent / 'nets.py'}:Net"
    with pytest.raises(KeyError, match="mine"):
        luthier.train(tmp_path / "d.csv", target="y", network=network, run=tmp_path / "r", callbacks=[Fails()], **FAST)


def test_an_argument_that_an_own_class_has_not_is_named(tmp_path: Path) -> None:
    source, network = table(tmp_path), f"{tmp_path / 'nets.py'}:Net"
    with pytest.raises(NetworkError, match="'widths'"):
        luthier.design(source, target="y", network=network, widths=(3,))
    with pytest.raises(NetworkError, match="'hiden'"):
        luthier.design(source, target="y", network=network, network_args={"hiden": 3})


def given_weights(place: Path, kind: str, channels: int) -> Path:
    torch.manual_seed(5)
    trunk = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3))
    net = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000))
    net(torch.randn(20, channels, 9, 9))
    path = place / f"given.{kind}"
    if kind == "safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save({"model": {f"module.{name}": value for name, value in net.state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.mark.parametrize(("kind", "channels"), [("safetensors", 1), ("pth", 3), ("pth", 1)])
def test_given_weights_are_kept_where_frozen(kind: str, channels: int, tmp_path: Path) -> None:
    source, path = pixels(tmp_path), given_weights(tmp_path, kind, channels)
    settings: dict[str, Any] = {
        "network": f"{tmp_path / 'nets.py'}:Net", "weights": str(path), "image_means": (0.45,), "image_stds": (0.22,),
    }  # fmt: skip
    frozen: Any = luthier.train(source, run=tmp_path / "frozen", freeze=("trunk",), **FAST, **settings)
    start = luthier.pipeline.train.make_module(luthier.design(source, **settings))
    assert frozen.model.schema.image.means == (0.45,)
    for name, value in frozen.module.state_dict().items():
        assert torch.equal(value, start.state_dict()[name]) == (not name.startswith("3.")), name
    assert all(parameter.requires_grad for parameter in frozen.module.parameters())
    assert all(part.training for part in frozen.module.modules())
    tuned: Any = luthier.train(source, run=tmp_path / "tuned", lr_scale={"trunk": 0.01}, **FAST, **settings)
    moves = {name: (tuned.module.state_dict()[name] - value).abs().max() for name, value in start.named_parameters()}
    assert 0 < moves["0.3.weight"] < 0.1 * moves["3.weight"]
    for run in ("frozen", "tuned"):
        luthier.eject(tmp_path / run, tmp_path / f"{run} out", trust_code=True)
        assert "the weights are the run's, to the bit" in run_script(tmp_path / f"{run} out")
        ours, theirs = (weights_of(tmp_path / name / "model.safetensors") for name in (run, f"{run} out"))
        assert ours == theirs


def test_a_head_alone_is_the_loop_you_would_write(tmp_path: Path) -> None:
    source, path = pixels(tmp_path), given_weights(tmp_path, "safetensors", 1)
    settings: dict[str, Any] = {**FAST, "network": f"{tmp_path / 'nets.py'}:Net", "weights": str(path), "seed": 3}
    settings |= {"freeze": ("trunk",), "batch_size": 20, "valid_fraction": 0.0}
    plan = luthier.design(source, **settings)
    assert (plan.head, plan.recipe.augment, plan.recipe.optimizer) == ("3", (), "SGD")
    assert "computed once" in plan.reasons["freeze"]
    found: Any = luthier.train(source, run=tmp_path / "run", **settings)

    rows: Any = plan.prepared.parts["train"].source
    net: Any = luthier.pipeline.train.make_module(plan).eval()
    (whole,) = rows.batches((torch.arange(len(rows)),), 0, 0)
    with torch.no_grad():
        features = nn.Sequential(*list(net)[:-1])(whole.inputs[0])
    means, stds = features.mean(dim=0), features.std(dim=0, correction=0)
    common = stds.square().mean().sqrt()
    factors = 1 / (stds + common)
    factors = factors / ((features - means) * factors).square().sum(dim=1).mean().sqrt()
    head = nn.Linear(8, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.0001)
    for epoch in range(4):
        for indices in luthier.order(len(rows), 3, epoch).split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head((features[indices] - means) * factors), rows.targets[indices]).backward()
            optimizer.step()
    expected = head.weight * factors
    # to rounding: the run scales in float64
    torch.testing.assert_close(found.module[3].weight, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.module[3].bias, head.bias - expected @ means, rtol=1e-3, atol=1e-4)


def test_a_head_alone_goes_on_is_replayed_and_checked(tmp_path: Path) -> None:
    source, path = pixels(tmp_path), given_weights(tmp_path, "safetensors", 1)
    settings: dict[str, Any] = {**FAST, "network": f"{tmp_path / 'nets.py'}:Net", "weights": str(path)}
    settings |= {"freeze": ("trunk",), "batch_size": 10, "checkpoint_every_steps": 3}
    cut = CopyAt(9, tmp_path / "cut")
    whole: Any = luthier.train(source, run=tmp_path / "whole", callbacks=[cut], **settings)
    same_weights(luthier.resume(tmp_path / "cut", trust_code=True).module, whole.module)
    assert luthier.replay(tmp_path / "whole", trust_code=True).checked
    assert check_source(tmp_path / "whole", trust_code=True) == []
    luthier.train(source, run=tmp_path / "folds", folds=3, **settings)
    luthier.train(source, run=tmp_path / "refit", refit=True, **settings)
    for run in ("folds", "refit"):
        luthier.eject(tmp_path / run, tmp_path / f"{run} out", trust_code=True)
        assert "the run's, to the bit" in run_script(tmp_path / f"{run} out")


UNUSUAL = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, channels, num_outputs):
        super().__init__()
        self.trunk, self.head = nn.Linear(channels * 81, 4), nn.Linear(4, num_outputs)

    def forward(self, x):
        return self.head(self.trunk(x.flatten(1)))

class Draws(Plain):
    def forward(self, x):
        return self.head(nn.functional.dropout(self.trunk(x.flatten(1)), 0.5, training=True))

class OfItsBatch(Plain):
    def forward(self, x):
        x = self.trunk(x.flatten(1))
        return self.head(x - x.mean(dim=0))

class After(Plain):
    def forward(self, x):
        return self.head(self.trunk(x.flatten(1))).tanh()

class Twice(Plain):
    def forward(self, x):
        x = self.trunk(x.flatten(1))
        self.head(-x)
        return self.head(x)
"""


@pytest.mark.parametrize(
    ("name", "more", "head"),
    [
        ("Plain", {}, "head"), ("Plain", {"augment": ("flip",)}, None), ("Plain", {"lr_scale": {"head": 0.5}}, None),
        ("Plain", {"freeze": ("trunk.weight",)}, None), ("Draws", {}, None), ("OfItsBatch", {}, None),
        ("After", {}, None), ("Twice", {}, None),
    ],
)  # fmt: skip
def test_what_is_no_head_alone_is_trained_as_ever(name: str, more: Any, head: str | None, tmp_path: Path) -> None:
    source = pixels(tmp_path)
    (tmp_path / "nets.py").write_text(UNUSUAL)
    plan = luthier.design(source, network=f"{tmp_path / 'nets.py'}:{name}", **{"freeze": ("trunk",), **more})
    assert plan.head == head
    assert plan.recipe.optimizer == ("AdamW" if head is None else "SGD")
    if "freeze" not in more:
        assert ("in each epoch" in plan.reasons["freeze"]) == (head is None)


def test_features_that_are_not_finite_are_said_before_training(tmp_path: Path) -> None:
    source, path = pixels(tmp_path), given_weights(tmp_path, "safetensors", 1)
    weights = load_file(path)
    weights["0.3.bias"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(TrainingError, match="before 3 give NaN"):
        luthier.train(source, network=f"{tmp_path / 'nets.py'}:Net", weights=str(path), freeze=("trunk",))


def test_small_images_for_a_pretrained_trunk_are_read_larger(tmp_path: Path) -> None:
    for i in range(60):
        place = tmp_path / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9), i, dtype=np.uint8)).save(place / f"{i}.png")
    (tmp_path / "nets.py").write_text(IMAGES.replace("num_classes", "num_outputs"))
    network, weights = f"{tmp_path / 'nets.py'}:Net", str(given_weights(tmp_path, "safetensors", 1))
    given: dict[str, Any] = {"network": network, "weights": weights, "freeze": ("trunk",)}
    for more, side in (({}, 128), ({"image_size": 16}, 16), ({"augment": ("shift",)}, 9), ({"freeze": ()}, 9)):
        image = luthier.design(tmp_path / "images", **{**given, **more}).schema.image
        assert image is not None
        assert (image.height, image.width) == (side, side), more
    notes = luthier.design(tmp_path / "images").prepared.notes
    assert any("pretrained network may do better" in note for note in notes)


def test_a_frozen_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    source, path = pixels(tmp_path), given_weights(tmp_path, "pth", 1)
    more: dict[str, Any] = {
        **FAST,
        "network": f"{tmp_path / 'nets.py'}:Net",
        "weights": str(path),
        "freeze": ("0.0", "0.1"),
    }
    more |= {"lr_scale": {"0": 0.5}, "checkpoint_every_steps": 2}
    whole = luthier.train(source, run=tmp_path / "whole", callbacks=[CopyAt(7, tmp_path / "cut")], **more)
    same_weights(luthier.resume(tmp_path / "cut", trust_code=True).module, whole.module)


def test_weights_that_do_not_fit_or_are_none(tmp_path: Path) -> None:
    source = pixels(tmp_path)
    network = f"{tmp_path / 'nets.py'}:Net"
    torch.save({"0.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "whole.pt")
    torch.save([1], tmp_path / "list.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:-90])
    for name, code in (
        ("other.pt", "bundle-does-not-fit"), ("whole.pt", "bundle-is-pickle"), ("list.pt", "bundle-foreign"),
        ("cut.pt", "bundle-damaged"), ("none.pt", "bundle-not-found"),
    ):  # fmt: skip
        with pytest.raises(BundleError) as caught:
            luthier.train(source, network=network, weights=str(tmp_path / name), run=tmp_path / "run")
        assert caught.value.code == code, name
        assert not (tmp_path / "run").exists()


def test_freezing_by_name() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), nn.Linear(2, 1))
    freeze(net, ["1.0", "0"])
    assert [name for name, parameter in net.named_parameters() if parameter.requires_grad] == [
        "1.1.weight", "1.1.bias", "2.weight", "2.bias",
    ]  # fmt: skip
    modes = [part.training for part in net.modules()]
    assert modes == [True] * 6
    start_training(net, ["1.0", "0"])
    assert [part.training for part in net.modules()] == [True, False, True, False, True, True]
    with pytest.raises(SettingError, match="trunk"):
        freeze(net, ["trnk"])
    data = (torch.randn(20, 2), torch.randn(20, 1))
    found = [parameter.detach().clone() for parameter in net.parameters()]
    net.requires_grad_(True).train()
    luthier.fit(net, data, criterion="mse", optimizer="SGD", lr=0.1, freeze=["trunk"], epochs=2, seed=0)
    same = [torch.equal(a, b) for a, b in zip(found, net.parameters(), strict=True)]
    assert same == [True] * 6 + [False] * 2
    with pytest.raises(SettingError, match="lr_scale"):
        luthier.fit(
            net, data, criterion="mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.1), lr_scale={"0": 0.1}
        )


def test_without_timm_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match=r"luthier\[timm\]"):
        luthier.train(pixels(tmp_path), network="timm:resnet18", run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stand_in_for_timm_is_called_with_the_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real package needs another torch; `./check --slow` runs it. Here its three functions are stood in for."""
    module: Any = type(sys)("timm")
    module.__version__ = "1.0.0"
    module.list_models = lambda: ["tiny"]
    module.get_pretrained_cfg = lambda name: None

    def create_model(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        assert (name, pretrained) == ("tiny", False)
        return nn.Sequential(
            nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
        )

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    result: Any = luthier.train(pixels(tmp_path), network="timm:tiny", run=tmp_path / "run", **FAST)
    assert result.model.blueprint.arguments == {"num_classes": 3, "in_chans": 1}
    assert luthier.load(tmp_path / "run").predict(tmp_path / "d.npz").shape == (90,)
    for name in ("timm:tny", "timm:hf-hub:someone/tiny"):
        with pytest.raises(LuthierError, match="timm has no model"):
            luthier.design(tmp_path / "d.npz", network=name)
