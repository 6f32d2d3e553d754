"""`train.py` of an ejected run: the loop with this run's settings, and nothing else."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from luthier.core.answering import Answering
from luthier.core.blueprint import Blueprint
from luthier.core.recipe import Recipe
from luthier.core.schema import Schema
from luthier.core.version import VERSION
from luthier.ejection.shake import Arguments, Code, assembled, folded
from luthier.ejection.text import WIDTH, identifier, keywords, literal, words
from luthier.errors import RunError
from luthier.metrics.criteria import make_criterion
from luthier.metrics.metrics import directions, metrics_for
from luthier.plain import figures
from luthier.training.optimizers import optimizer_arguments, optimizer_class
from luthier.training.schedules import interval_of, schedule_arguments
from luthier.training.settings import criterion_arguments


@dataclass(frozen=True)
class Story:
    """What the run was, for the comments.

    Attributes:
        name: Of its folder.
        epochs: The rows of its record.
        best_epoch: Counted from 0.
        stopped: Why it ended.
        test: Figures on the test rows.
        weights: SHA-256 over the weights.
        machine: torch, processor and threads.
        answering: What was measured of the answers: no part of the weights, so it is said.
    """

    name: str
    epochs: list[dict[str, Any]]
    best_epoch: int | None
    stopped: str
    test: dict[str, float]
    weights: str
    machine: dict[str, Any]
    answering: Answering = Answering()


@dataclass(frozen=True)
class Loop:
    """What the loop of a run is made of.

    Attributes:
        schema: The task and the targets.
        blueprint: The network; arguments that do not fit on a line are in data.json.
        class_name: Of the network, in network.py.
        recipe: How it was trained.
        num_train: Training samples.
        has_valid: Whether there is validation data.
        has_weights: Whether samples have weights.
        head: The layer that is trained alone, on what the others give; empty where all are called.
        folds: How many networks are trained, each validated on another part of the rows.
        is_joined: Whether the network is trained on training and validation rows together.
        has_unseen: Whether validation rows have classes that training rows do not have.
        class_counts: Training samples of each class, for balanced weights.
        starts_from: Whether training starts from given weights.
        groups: What the optimizer moves, by name, where learning rates differ.
    """

    schema: Schema
    blueprint: Blueprint
    class_name: str
    recipe: Recipe
    num_train: int
    has_valid: bool
    has_weights: bool
    class_counts: list[int] | None
    starts_from: bool
    groups: list[dict[str, Any]] | None = None
    has_unseen: bool = False
    is_joined: bool = False
    folds: int | None = None
    head: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Whether the figure that is watched is."""
        return directions(metrics_for(self.schema)).get(self.recipe.monitor, False)

    @property
    def batch_size(self) -> int:
        """Samples an update."""
        return self.recipe.batch_size or 32

    @property
    def steps_per_epoch(self) -> int:
        """Updates an epoch."""
        whole = self.num_train // self.batch_size
        steps = whole if self.recipe.drop_last else -(-self.num_train // self.batch_size)
        return steps if self.recipe.limit is None else min(steps, self.recipe.limit)


def long_arguments(blueprint: Blueprint) -> dict[str, Any]:
    """Return the network's arguments that would not fit on a line."""
    return {name: value for name, value in blueprint.arguments.items() if len(literal(value)) > 80}


def write_loop(loop: Loop, story: Story) -> str:
    """Return the text of `train.py`: `luthier/plain/project/train.py` with this run's settings.

    Raises:
        RunError: a setting that no ejected project knows.
    """
    recipe = loop.recipe
    if recipe.precision == "fp16" or (recipe.device or "cpu") != "cpu":
        raise RunError(
            f"the run was trained on {recipe.device} with {recipe.precision}, and eject supports only runs on the CPU",
            hint="train it with device='cpu'",
            code="run-cannot-eject",
        )
    if (recipe.shards or 1) > 1 and recipe.micro_batch_size is not None:
        raise RunError(
            "the run computed each shard of a batch in micro-batches, and eject does not support that",
            hint="train it without micro_batch_size: shards are parts of a batch already",
            code="run-cannot-eject",
        )
    if recipe.compile:
        raise RunError(
            "the run used a compiled network, and eject does not support that",
            hint="train it without compile",
            code="run-cannot-eject",
        )
    figure = recipe.monitor.removeprefix("valid_") if loop.has_valid else "loss"
    is_figure = figure not in ("loss", "train_loss")
    is_known = figure in ("accuracy", "f1", "auc") or not any(of.transform == "count" for of in loop.schema.targets)
    if is_figure and not (is_known and hasattr(figures, figure)):
        raise RunError(
            f"the run chose its epoch by {recipe.monitor}, which eject does not support",
            hint="train with monitor='valid_loss'",
            code="run-cannot-eject",
        )
    text = assembled("train.py").replace("import Network", f"import {identifier(loop.class_name)}")
    values = {**_values(loop, story), "HAS_FIGURE": is_figure, "FIGURE": Code(figure)}
    return folded(text, values, docstring=_docstring(loop, story))


def _values(loop: Loop, story: Story) -> dict[str, Any]:
    """Return what the constants of `luthier/plain/project/train.py` are."""
    recipe, blocks = loop.recipe, loop.schema.blocks
    longs = long_arguments(loop.blueprint)
    network = keywords({name: value for name, value in loop.blueprint.arguments.items() if name not in longs})
    optimizer = optimizer_class(recipe.optimizer or "")
    scheduler, schedule_args = _schedule(loop, optimizer)
    kind, criterion_args = _criterion(loop)
    has_class_weights = issubclass(kind, nn.CrossEntropyLoss | nn.NLLLoss) and "weight" in criterion_args
    interval = interval_of(scheduler, recipe) if scheduler else ""
    micro = recipe.micro_size or 0
    return {
        "SEED": recipe.seed,
        "EPOCHS": recipe.epochs,
        "BATCH_SIZE": loop.batch_size,
        "THREADS": recipe.threads,
        "RUN": story.weights,
        "BLOCKS": tuple(block for block in blocks if block != "pixels"),
        "Network": Code(identifier(loop.class_name)),
        "NETWORK_ARGS": Arguments([*network, *(['**data.FACTS["network"]'] if longs else [])]),
        "CRITERION": Code(f"nn.{kind.__name__}"),
        "CRITERION_ARGS": Arguments(_as_tensors(criterion_args)),
        "OPTIMIZER": Code(f"torch.optim.{optimizer.__name__}"),
        "OPTIMIZER_ARGS": Arguments(keywords(optimizer_arguments(optimizer, recipe))),
        "SCHEDULER": Code(f"torch.optim.lr_scheduler.{scheduler}"),
        "SCHEDULER_ARGS": Arguments(keywords(schedule_args)),
        "SCHEDULE": "plateau" if scheduler == "ReduceLROnPlateau" and interval == "epoch" else interval,
        "HAS_VALID": loop.has_valid,
        "HAS_LENGTHS": bool({"tokens", "values"} & set(blocks)),
        "IS_JOINED": loop.is_joined,
        "FOLDS": loop.folds or 0,
        "HAS_START": loop.starts_from,
        "GROUPS": "named" if loop.groups is not None else "all" if recipe.decay_norm_and_bias else "by dimension",
        "FREEZES": bool(recipe.freeze) and not loop.head,
        "HEAD": loop.head,
        "HAS_WEIGHTS": loop.has_weights,
        "HAS_CLASS_WEIGHTS": has_class_weights,
        "HAS_IGNORED": "ignore_index" in criterion_args,
        "HAS_UNSEEN": loop.has_unseen,
        "IS_SUM": recipe.criterion_args.get("reduction") == "sum" and not loop.has_weights,
        "SHUFFLE": recipe.shuffle,
        "DROP_LAST": recipe.drop_last,
        "LIMIT": recipe.limit or 0,
        "EVAL_BATCH_SIZE": recipe.eval_batch_size or loop.batch_size,
        "SHARDS": recipe.shards or 1,
        "MICRO_BATCH_SIZE": micro if micro < loop.batch_size else 0,
        "PRECISION": recipe.precision,
        "IS_IMAGE": "pixels" in blocks,
        "AUGMENT": recipe.augment if "pixels" in blocks else (),
        "CHANNELS_LAST": recipe.memory_format == "channels_last",
        "CLIP_NORM": recipe.clip_norm or 0.0,
        "CLIP_VALUE": recipe.clip_value or 0.0,
        "WARMUP_STEPS": recipe.warmup_steps,
        "EMA": recipe.ema or 0.0,
        "MONITOR": recipe.monitor if loop.has_valid else "train_loss",
        "HIGHER_IS_BETTER": loop.higher_is_better,
        "PATIENCE": recipe.patience or 0,
        "MIN_DELTA": recipe.min_delta,
        "IS_MULTICLASS": loop.schema.task == "multiclass",
        "SCALES": [(of.transform == "log", of.unit, of.mean, of.std, of.span) for of in loop.schema.targets],
    }


def _docstring(loop: Loop, story: Story) -> str:
    best = next((row for row in story.epochs if row["epoch"] == story.best_epoch), story.epochs[-1])
    figures = _figures({name: value for name, value in best.items() if name != "seconds"})
    here = ", ".join(f"{words(name)} {words(str(value))}" for name, value in story.machine.items())
    name, which = literal(story.name), "run" if loop.folds is None else "first fold"
    text = f"""Train a network again, in plain PyTorch: the run {name} of luthier {VERSION}, without luthier.

    pip install -r requirements.txt
    python train.py

data.py reads the rows that the run read, network.py is its network, and below is its loop. model.safetensors
gets the run's weights to the bit on the same torch, kind of processor and threads: {here}.

The {which} ended after {len(story.epochs)} epochs ({words(story.stopped)}). Its best, epoch {best["epoch"] + 1}:
{_wrapped(figures)}"""
    if story.test:
        text += "\nOn the test rows:\n" + _wrapped(_figures(story.test))
    plain, kept = asdict(Answering()), asdict(story.answering)
    changed = [f"{words(name)} {literal(value)}" for name, value in kept.items() if value != plain[name]]
    if changed:
        text += "\nThe run answers by these weights with:\n" + _wrapped(changed)
    return text + "\n"


def _figures(row: dict[str, Any]) -> list[str]:
    return [f"{words(name)} {value:.6g}" for name, value in row.items() if isinstance(value, float)]


def _wrapped(items: list[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line.rstrip())
            line = "   "
        line += f" {item},"
    return "\n".join([*lines, line]).rstrip(",")


def _criterion(loop: Loop) -> tuple[type[nn.Module], dict[str, Any]]:
    name = loop.recipe.criterion or ""
    return type(make_criterion(name, {})), criterion_arguments(name, loop.recipe, loop.class_counts)


def _as_tensors(arguments: dict[str, Any]) -> list[str]:
    """Return `name=value` for each argument; a list of numbers is a tensor, as torch's losses take one."""
    return [
        f"{identifier(key)}=torch.tensor({literal(list(value))})"
        if isinstance(value, list | tuple)
        else f"{identifier(key)}={literal(value)}"
        for key, value in arguments.items()
    ]


def _schedule(loop: Loop, cls: type[Any]) -> tuple[str, dict[str, Any]]:
    """Return the scheduler's class and its arguments."""
    recipe = loop.recipe
    if recipe.scheduler is None:
        return "", {}
    # its arguments follow from the groups' learning rates, as an optimizer of this class and settings has them
    plain: list[dict[str, Any]] = [{} for _ in range(1 if recipe.decay_norm_and_bias else 2)]
    groups = [{**group, "params": [torch.zeros(1, 1, requires_grad=True)]} for group in loop.groups or plain]
    optimizer = cls(groups, **optimizer_arguments(cls, recipe))
    return schedule_arguments(recipe, optimizer, loop.steps_per_epoch, loop.higher_is_better)
