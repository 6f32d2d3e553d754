"""What a model of timm is called with, over a stand-in for timm: the real one is in tests/pipeline/test_timm.py."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from luthier.core.blueprint import Blueprint
from luthier.errors import LuthierError
from luthier.networks.build import build


@pytest.mark.parametrize("version", ["1.0.9", "0.9.16"])
@pytest.mark.parametrize("given", [{"drop_rate": 0.1}, {"checkpoint_path": "x.pth"}, {"pretrained_cfg": {"file": "x"}}])
def test_only_arguments_that_shape_the_network_reach_timm(
    given: dict[str, Any], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **arguments: Any) -> nn.Module:
        calls.append(arguments)
        return nn.Linear(1, 1)

    timm = SimpleNamespace(__version__=version, list_models=lambda: ["tiny"], create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    blueprint = Blueprint(family="timm:tiny", arguments={"num_classes": 2, **given})
    if version.startswith("1") and "drop_rate" in given:
        build(blueprint)
        assert calls == [{"pretrained": False, "num_classes": 2, "drop_rate": 0.1}]
        return
    with pytest.raises(LuthierError) as caught:
        build(blueprint)
    assert caught.value.code == ("missing-package" if version.startswith("0") else "network-unknown-argument")
    assert not calls
