"""The real timm. It needs another torch, so it has an environment of its own, which `./check --slow` makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from tests.ejection.test_eject import run_script, weights_of
from tests.problems import same_weights
from tests.training.test_resume import CopyAt

timm: Any = pytest.importorskip("timm", reason="timm and torchvision need another torch: see ./check --slow")
pytestmark = pytest.mark.slow


def pictures(place: Path, channels: int) -> Path:
    g = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = g.integers(0, 60, (60, channels, 32, 32)) + 80 * y[:, None, None, None]
    np.savez(place / "d.npz", x=x.astype(np.uint8), y=y)
    return place / "d.npz"


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 1), ("efficientnet_lite0", 3), ("mobilenetv3_small_050", 3), ("convnext_atto", 1)],
)
def test_a_model_of_timm_is_trained_resumed_ejected_and_loaded(name: str, channels: int, tmp_path: Path) -> None:
    source = pictures(tmp_path, channels)
    torch.manual_seed(1)
    given = timm.create_model(name, pretrained=False)  # as a file of pretrained weights would hold it: 1,000 classes
    torch.save(given.state_dict(), tmp_path / "given.pth")
    settings: dict[str, Any] = {
        "network": f"timm:{name}", "weights": str(tmp_path / "given.pth"), "epochs": 2, "batch_size": 16, "threads": 2,
        "lr_scale": {"trunk": 0.1}, "checkpoint_every_steps": 2,
    }  # fmt: skip
    result: Any = luthier.train(source, run=tmp_path / "run", callbacks=[CopyAt(3, tmp_path / "cut")], **settings)
    assert type(result.module) is type(given)
    own = timm.get_pretrained_cfg(name).mean
    assert result.model.schema.image.means == (own if channels == 3 else (sum(own) / 3,))
    same_weights(luthier.resume(tmp_path / "cut").module, result.module)
    answers = luthier.load(tmp_path / "run").predict(source)
    np.testing.assert_array_equal(answers, result.model.predict(source))
    luthier.eject(tmp_path / "run", tmp_path / "out")
    assert "the weights are the run's, to the bit" in run_script(tmp_path / "out")
    assert weights_of(tmp_path / "run" / "model.safetensors") == weights_of(tmp_path / "out" / "model.safetensors")


def test_a_frozen_trunk_stays_as_it_is(tmp_path: Path) -> None:
    source = pictures(tmp_path, 3)
    result: Any = luthier.train(source, network="timm:resnet18", freeze=("trunk",), epochs=1, run=tmp_path / "run")
    fresh = luthier.pipeline.train.make_module(luthier.design(source, network="timm:resnet18"))
    changed = [
        name for name, value in fresh.state_dict().items() if not torch.equal(value, result.module.state_dict()[name])
    ]
    assert changed == ["fc.weight", "fc.bias"]
