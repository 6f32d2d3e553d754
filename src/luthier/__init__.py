"""Luthier: design, train, check and reuse neural networks in PyTorch.

The public names are resolved when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from luthier.core.version import VERSION

if TYPE_CHECKING:
    from luthier.checks.look import check
    from luthier.checks.watch import Watch, watch
    from luthier.core.blueprint import Blueprint
    from luthier.core.finding import Finding
    from luthier.core.order import order
    from luthier.core.pages import explain
    from luthier.core.recipe import Recipe
    from luthier.core.schema import Schema
    from luthier.core.settings import CheckSettings
    from luthier.errors import LuthierError
    from luthier.networks.build import build
    from luthier.networks.summary import Summary
    from luthier.pipeline.eject import eject
    from luthier.pipeline.plan import Plan, design
    from luthier.pipeline.replay import replay
    from luthier.pipeline.rows import write_rows
    from luthier.pipeline.train import resume, train
    from luthier.pipeline.tune import Study, tune
    from luthier.serving.model import Model, load
    from luthier.serving.summary import summary
    from luthier.training.callbacks import Callback, EarlyStopping, Stop, View
    from luthier.training.custom import CustomRun, run
    from luthier.training.fit import fit
    from luthier.training.rates import LearningRates, find_lr
    from luthier.training.record import Record, read_record
    from luthier.training.result import Result
    from luthier.training.trackers import Tracker

__version__ = VERSION

_HOMES = {
    "Blueprint": "luthier.core.blueprint",
    "Callback": "luthier.training.callbacks",
    "CheckSettings": "luthier.core.settings",
    "CustomRun": "luthier.training.custom",
    "EarlyStopping": "luthier.training.callbacks",
    "Finding": "luthier.core.finding",
    "LearningRates": "luthier.training.rates",
    "LuthierError": "luthier.errors",
    "Model": "luthier.serving.model",
    "Plan": "luthier.pipeline.plan",
    "Recipe": "luthier.core.recipe",
    "Record": "luthier.training.record",
    "Result": "luthier.training.result",
    "Schema": "luthier.core.schema",
    "Stop": "luthier.training.callbacks",
    "Study": "luthier.pipeline.tune",
    "Summary": "luthier.networks.summary",
    "Tracker": "luthier.training.trackers",
    "View": "luthier.training.callbacks",
    "Watch": "luthier.checks.watch",
    "build": "luthier.networks.build",
    "check": "luthier.checks.look",
    "design": "luthier.pipeline.plan",
    "eject": "luthier.pipeline.eject",
    "explain": "luthier.core.pages",
    "find_lr": "luthier.training.rates",
    "fit": "luthier.training.fit",
    "load": "luthier.serving.model",
    "order": "luthier.core.order",
    "read_record": "luthier.training.record",
    "replay": "luthier.pipeline.replay",
    "resume": "luthier.pipeline.train",
    "run": "luthier.training.custom",
    "summary": "luthier.serving.summary",
    "train": "luthier.pipeline.train",
    "tune": "luthier.pipeline.tune",
    "watch": "luthier.checks.watch",
    "write_rows": "luthier.pipeline.rows",
}

__all__ = [
    "Blueprint",
    "Callback",
    "CheckSettings",
    "CustomRun",
    "EarlyStopping",
    "Finding",
    "LearningRates",
    "LuthierError",
    "Model",
    "Plan",
    "Recipe",
    "Record",
    "Result",
    "Schema",
    "Stop",
    "Study",
    "Summary",
    "Tracker",
    "View",
    "Watch",
    "__version__",
    "build",
    "check",
    "design",
    "eject",
    "explain",
    "find_lr",
    "fit",
    "load",
    "order",
    "read_record",
    "replay",
    "resume",
    "run",
    "summary",
    "train",
    "tune",
    "watch",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # A room and a public name never share a name, but a submodule's import sets attributes on the package: what is
    # asked for once stays what it is.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
