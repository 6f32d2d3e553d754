"""A plan: data read and split, a network and a recipe chosen, with the reasons; nothing is trained yet."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from luthier.core.blueprint import Blueprint
from luthier.core.html import concat, table, tag
from luthier.core.names import check_name, did_you_mean
from luthier.core.plain import to_plain
from luthier.core.recipe import TRUNK, Recipe
from luthier.core.rng import draw_seed
from luthier.core.schema import Schema
from luthier.core.settings import CheckSettings, DataSettings, FinishSettings, NetworkSettings
from luthier.data.files import STDIN, as_source, is_table_folder, source_name, without_password
from luthier.data.kinds import doubts
from luthier.data.rows import is_by_windows
from luthier.errors import NetworkError, RunError, SettingError, printable
from luthier.metrics.finishing import rows_for
from luthier.networks.choose import ENOUGH_VALID, FEW_IMAGES, choose, choose_for_head, trains_head_alone
from luthier.networks.foreign import is_foreign, is_own_file, normalisation
from luthier.pipeline.parts import Prepared, refuse_same_file, same_data
from luthier.pipeline.prepare import prepare
from luthier.pipeline.rows import with_store
from luthier.pipeline.runfile import IN_MEMORY, PATHS, read_run_file, write_run_file
from luthier.pipeline.trial import try_out
from luthier.store.bundle import Bundle, load_bundle
from luthier.store.rows import is_row_store
from luthier.training.optimizers import optimizer_class
from luthier.training.schedules import scheduler_name

_log = logging.getLogger("luthier")
_PRETRAINED_SIDE = 128  # pixels: docs/decisions/images.md
_NO_HEAD = "the answer is not the output of a last nn.Linear with a bias, over one row of numbers a sample"
_SHORT = 20_000  # training rows below which training once more takes seconds
_FEW_ROWS = 4_000  # training rows below which threads wait for each other as long as they compute
_LENGTH = {"epochs", "max_steps", "max_time_s", "patience"}
_DATA = {item.name for item in fields(DataSettings)} - {"source"}
_NETWORK = {item.name for item in fields(NetworkSettings)}
_RECIPE = {item.name for item in fields(Recipe)}
_CHECK = {item.name for item in fields(CheckSettings)}
_FINISH = {item.name for item in fields(FinishSettings)}


@dataclass
class Plan:
    """What `train` will do.

    Attributes:
        settings: Which data, and how it is split.
        prepared: The data, read and split.
        blueprint: The network.
        recipe: How to train.
        reasons: Why, by field.
        start: The bundle whose weights training starts from, if any.
        checks: Which checks run.
        finish: What is done when training has ended.
        asked: The command or call that the run was made by, where it is known.
        last: The name of the network's last layer, where that can be trained on what it is given alone.
    """

    settings: DataSettings
    prepared: Prepared
    blueprint: Blueprint
    recipe: Recipe
    reasons: dict[str, str]
    start: Bundle | None = None
    checks: CheckSettings = CheckSettings()
    finish: FinishSettings = FinishSettings()
    asked: str = ""
    last: str | None = None

    @property
    def head(self) -> str | None:
        """The layer that is trained alone, on what the others give for each row, computed once; else None."""
        return self.last if trains_head_alone(self.recipe) else None

    @property
    def schema(self) -> Schema:
        """Inputs and targets."""
        return self.prepared.schema

    def toml(self, relative_to: Path | None = None) -> str:
        """Return the plan as a run file, which `luthier train` takes."""
        return write_run_file(
            self.settings, self.schema, self.blueprint, self.recipe, self.reasons, self.checks, self.finish,
            asked=self.asked, relative_to=relative_to,
        )  # fmt: skip

    def words(self) -> str:
        """Return in a few lines what was read and chosen; `toml` has all of it, with the reasons."""
        schema, parts = self.schema, self.prepared.parts
        counts = ", ".join(f"{part} {len(found.rows):,}" for part, found in parts.items())
        lines = [
            f"{source_name(self.settings.source)}: {sum(len(part.rows) for part in parts.values()):,} rows ({counts})"
        ]
        for target in schema.targets[:5]:
            lines.append(f"target {target.name!r}: {schema.task}, {target.words}")
        kinds = Counter(column.kind for column in schema.columns)
        if kinds:
            lines.append("columns: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        shown = [f"{name} {self.blueprint.arguments[name]}" for name in ("widths",) if name in self.blueprint.arguments]
        recipe = self.recipe
        length = f"{recipe.epochs} epochs" if recipe.max_steps is None else f"{recipe.max_steps:,} updates"
        lines.append(
            f"network: {', '.join([self.blueprint.family, *shown])}; {recipe.optimizer}, lr {recipe.lr:g}, batches of "
            f"{recipe.batch_size}, {length}"
        )
        return "\n".join(map(printable, lines))

    def _repr_html_(self) -> str:
        """Return what was read and chosen, with the reasons, for a notebook."""
        chosen = {"family": self.blueprint.family, **self.blueprint.arguments, **to_plain(self.recipe)}
        rows = [(name, str(chosen[name]), why) for name, why in self.reasons.items() if name in chosen]
        lines = (tag("p", line) for line in self.words().split("\n"))
        return concat([*lines, table(("chosen", "value", "why"), rows)])

    def __str__(self) -> str:
        return self.toml()


def design(source: Any, *, target: str | int | Sequence[str | int] = (), **given: Any) -> Plan:
    """Read and split the data, and choose a network and a recipe for it; nothing is trained and no file is written.

    Args:
        source: A table in a file (CSV, Parquet, Excel, JSON, Arrow), in several (a list, a pattern, a folder), or in a
            database (a URL, and `query`); a folder of images (one folder a class), an `.npz` with `x` and `y`, a run
            file (`.toml`), or a frame, and then `valid` and `test` may be frames too.
        target: Column to predict, or several.
        **given: Fields of `DataSettings`, `NetworkSettings`, `Recipe`, `FinishSettings` and `CheckSettings`.

    Raises:
        SettingError: an unknown or wrong setting.
        DataError: data that cannot be trained on.
        NetworkError: a network that Luthier did not design does not take the data, or fails on two samples of it.
        RunError: a run file of a run over data in memory.

    >>> plan = design({"x": [i % 9 for i in range(100)], "y": ["a", "b"] * 50}, target="y")
    >>> plan.blueprint.family, plan.recipe.criterion
    ('tabm', 'bce')
    """
    parts = _sorted(given)
    if target != () and target != []:
        parts["data"]["target"] = target
    handed: dict[str, Any] = {}
    blueprint, recipe_fields = None, parts["recipe"]
    checks, finish, made_by = CheckSettings(**parts["check"]), FinishSettings(**parts["finish"]), ""
    named = as_source(source)
    if named is not None:
        for part in _handed(source, parts["data"]).keys() - {"train"}:
            raise SettingError(
                f"{part} is of type {type(parts['data'][part]).__name__}, but the data is in {named}",
                hint=f"give {part} as a file too, or the data as a frame",
                code="setting-wrong-type",
            )
        if named.endswith(".toml"):
            file = read_run_file(Path(named))
            # in older run files a folder stands before it
            if file.data.source.endswith(IN_MEMORY) or file.data.source == STDIN:
                where = "from standard input" if file.data.source == STDIN else "in memory"
                raise RunError(
                    f"{source} describes a run over data {where}, which no longer exists",
                    hint="train again, from the data or from a file of it",
                    code="run-data-in-memory",
                )
            settings, blueprint = file.data, _trusted(file.blueprint, parts["network"], str(source))
            parts["network"], made_by = {}, file.asked
            recipe_fields = {**file.recipe, **recipe_fields}
            checks, finish = replace(file.checks, **parts["check"]), replace(file.finish, **parts["finish"])
            settings = DataSettings(**{**_of(settings), **parts["data"]})
        else:
            settings = DataSettings(source=named, **parts["data"])
    else:
        handed = _handed(source, parts["data"])
        others = dict.fromkeys(handed.keys() - {"train"}, IN_MEMORY)
        settings = DataSettings(source=IN_MEMORY, **{**parts["data"], **others})
    if parts["network"].pop("trust_code", False):
        raise SettingError(
            "trust_code would be ignored: no run file names the network", hint="leave it out", code="setting-ignored"
        )
    for name in PATHS:
        check_name(getattr(settings, name) or "", "the file")
    refuse_same_file(settings)
    settings = settings if handed else with_store(settings)
    settings = _with_transform(settings, recipe_fields)
    _check_names(recipe_fields)
    if "epochs" in parts["recipe"] and recipe_fields.get("max_steps") is not None:
        raise SettingError(
            f"both epochs and max_steps ({recipe_fields['max_steps']}) are given",
            hint="give one of them: max_steps sets the number of epochs",
            code="setting-given-twice",
        )
    bundle = None if settings.start is None else load_bundle(Path(settings.start))
    if bundle is not None and (bundle.schema is None or bundle.blueprint is None):
        raise SettingError(
            f"{settings.start} holds a module of your own, and luthier train cannot start from one",
            hint="use luthier.load(path, module=…) and luthier.fit",
            code="setting-start",
        )
    if bundle is not None and bundle.schema is not None:
        _refuse_given(parts, bundle.schema, str(settings.start))
    asked = blueprint.family if blueprint is not None else parts["network"].get("network") or ""
    if bundle is not None and bundle.blueprint is not None and is_foreign(bundle.blueprint.family):
        raise SettingError(
            f"{settings.start} holds the weights of {bundle.blueprint.family} and not its code",
            hint="start from its weights only: network= with the same class, and weights= with this file",
            code="setting-start",
        )
    if settings.weights is not None and settings.image_means is None and is_foreign(asked):
        means_and_stds = normalisation(asked)
        if means_and_stds is not None:
            settings = replace(settings, image_means=means_and_stds[0], image_stds=means_and_stds[1])
    if blueprint is None and settings.weights is not None and is_foreign(asked) and settings.image_size is None:
        is_folder = Path(settings.source).is_dir() and not is_table_folder(Path(settings.source))
        is_folder &= not is_row_store(Path(settings.source))  # its images have their size
        if is_folder and TRUNK in recipe_fields.get("freeze", ()) and not recipe_fields.get("augment"):
            settings = replace(settings, image_size=_PRETRAINED_SIDE)
    prepared = prepare(
        settings, handed, augment=tuple(recipe_fields.get("augment", ())), schema=bundle.schema if bundle else None
    )
    needs = settings.valid or finish != FinishSettings() or {"patience", "monitor"} & recipe_fields.keys()
    is_asked = "valid_fraction" in parts["data"] or bool(needs)
    if bundle is None and blueprint is None and not is_asked and _has_few_series(prepared):
        settings = replace(settings, valid_fraction=0.0)
        prepared = prepare(settings, handed)
        prepared.notes.append(
            f"no series are kept for validation: fewer than {ENOUGH_VALID} are too few to choose an epoch by; "
            "to keep some, pass valid_fraction="
        )
    is_begun = settings.weights is not None or bundle is not None
    if prepared.schema.image is not None and prepared.schema.num_rows < FEW_IMAGES and not is_begun:
        prepared.notes.append(
            f"{prepared.schema.num_rows:,} training images are few to learn from nothing; a pretrained network may do "
            "better: pass network= and weights=, with freeze=('trunk',)"
        )
    if lines := doubts(prepared.schema.columns):
        _log.warning("%s", "\n  ".join(["left out, or ambiguous:", *lines]))
    kept: dict[str, Any] = {"source": without_password(settings.source)}
    if settings.target_transform is None and {target.transform for target in prepared.schema.targets} == {"log"}:
        kept["target_transform"] = "log"  # found by skew: the run file says it
    settings = replace(settings, **kept)
    network = NetworkSettings(**parts["network"])
    if blueprint is not None and is_foreign(blueprint.family):
        network = NetworkSettings(network=blueprint.family, network_args=blueprint.arguments)
    choice = choose(
        prepared.schema,
        network,
        recipe_fields,
        sizes=prepared.sizes,
        num_valid=prepared.num_valid,
    )
    chosen = bundle.blueprint if bundle and bundle.blueprint else blueprint or choice.blueprint
    last, rows = None, prepared.parts["train"].source
    if is_foreign(chosen.family):
        last = try_out(chosen, prepared.schema, rows)
        last, why = (None, "the rows are read by windows") if is_by_windows(rows) else (last, _NO_HEAD)
        is_alone = last is not None
        choice = choose_for_head(
            choice, prepared.schema, recipe_fields, num_valid=prepared.num_valid, why=None if is_alone else why
        )
    recipe, reasons = choice.recipe, choice.reasons
    if not prepared.num_valid and "patience" not in recipe_fields:
        recipe, reasons["patience"] = recipe.updated(patience=None), "there is no validation data"
    for name, value in (("ema", None), ("optimizer_flavour", "foreach"), ("memory_format", "contiguous")):
        if recipe.sharded and name not in recipe_fields:
            recipe, reasons[name] = recipe.updated(**{name: value}), "the weights are spread over the processes"
    if blueprint is not None:
        recipe, reasons = Recipe(**recipe_fields), {name: why for name, why in reasons.items() if name in recipe_fields}
        _check_sizes(blueprint, choice.blueprint, str(source))
    if recipe.seed is None:
        recipe, reasons["seed"] = recipe.updated(seed=draw_seed()), "drawn at random, because seed is none"
    if recipe.threads is None:
        threads, why = torch.get_num_threads(), "torch's default on this machine"
        if threads > 1 and chosen.family in ("tabm", "mlp") and prepared.schema.num_rows < _FEW_ROWS:
            threads, why = 1, "on so few rows two threads take as long as one, and many times as long on a busy machine"
        recipe, reasons["threads"] = recipe.updated(threads=threads), why
    _check_class_weights(recipe, prepared.schema)
    if settings.target_transform is not None and prepared.schema.task != "regression":
        raise SettingError(
            "target_transform would be ignored: the target is not a number", hint="leave it out", code="setting-ignored"
        )
    if recipe.augment and prepared.schema.image is None:
        raise SettingError("augment would be ignored: there are no images", hint="leave it out", code="setting-ignored")
    fit_parts(prepared, recipe)
    is_said = "refit" in parts["finish"] or (named is not None and named.endswith(".toml"))
    if not is_said and prepared.parts.get("valid") and not finish.is_measured:
        is_short = bundle is None and blueprint is None and _trains_short(prepared, settings, network, recipe_fields)
        if is_short or network.effort == "thorough":
            why = "once more on training and validation rows, for as many epochs as the best one"
            finish, reasons["refit"] = replace(finish, refit=True), why
    _check_finish(finish, settings, prepared)
    return Plan(settings, prepared, chosen, recipe, reasons, bundle, checks, finish, made_by, last)


def _trains_short(
    prepared: Prepared, settings: DataSettings, network: NetworkSettings, recipe_fields: Mapping[str, Any]
) -> bool:
    """Whether training is short, and nothing was said of its length or of the rows that it is to learn from."""
    is_said = settings.valid is not None or not _LENGTH.isdisjoint(recipe_fields)
    is_own = is_foreign(network.network or "") or network.effort == "quick" or prepared.schema.image is not None
    return prepared.schema.num_rows < _SHORT and not (is_said or is_own)


def fit_parts(prepared: Prepared, recipe: Recipe) -> None:
    """Have images given as a recipe wants them: the design may have chosen what to do to training images."""
    for part in prepared.parts.values():
        if part is prepared.parts["train"] and hasattr(part.source, "augment"):
            part.source.augment = recipe.augment
        if hasattr(part.source, "channels_last"):
            part.source.channels_last = recipe.memory_format == "channels_last"


def _check_finish(finish: FinishSettings, settings: DataSettings, prepared: Prepared) -> None:
    """Refuse what the task does not have, and what there are no validation rows, or too few, to measure by."""
    task, is_count = prepared.schema.task, settings.target_transform == "count"
    wrong = {
        "calibrate": finish.calibrate and task == "regression",
        "threshold": finish.threshold is not None and task not in ("binary", "multilabel"),
        "interval": finish.interval is not None and (task == "multilabel" or is_count),
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        kind = "poisson" if is_count else task
        what = f"the {'loss' if is_count else 'task'} is {kind}"
        raise SettingError(f"{name} would be ignored: {what}", hint="leave it out", code="setting-ignored")
    if finish.refit and settings.folds is not None:
        raise SettingError("refit and folds both train on all rows", hint="give one of them", code="setting-ignored")
    valid = 0 if prepared.folds is None else len(prepared.folds)
    valid = valid or prepared.num_valid
    if not valid and (finish.refit or finish.is_measured):
        raise SettingError(
            "refit, calibrate, threshold and interval need validation rows, and there are none",
            hint="give valid= or valid_fraction=, or folds=5",
            code="setting-ignored",
        )
    if finish.interval is not None and valid < rows_for(finish.interval):
        raise SettingError(
            f"an interval of {finish.interval:g} takes {rows_for(finish.interval):,} validation rows, and there are "
            f"{valid:,}",
            hint="ask for less, or validate on each row once: folds=5",
            code="setting-out-of-range",
        )


def _with_transform(settings: DataSettings, recipe_fields: Mapping[str, Any]) -> DataSettings:
    """Return settings whose targets are what the loss takes: one of counts gives the logarithm of what is expected."""
    is_count = str(recipe_fields.get("criterion") or "").lower() in ("poisson", "poissonnllloss")
    given = settings.target_transform
    if is_count and given is None:
        return replace(settings, target_transform="count")
    if given is not None and is_count != (given == "count"):
        raise SettingError(
            f"target_transform is {given!r}, and the criterion is {'' if is_count else 'not '}poisson",
            hint="for counts use criterion='poisson' and leave target_transform out",
            code="setting-ignored",
        )
    return settings


def _has_few_series(prepared: Prepared) -> bool:
    """Whether the samples are series and those for validation too few to choose an epoch by."""
    is_series = prepared.schema.blocks == ("values", "lengths")
    return is_series and "valid" in prepared.parts and len(prepared.parts["valid"].rows) < ENOUGH_VALID


def _handed(source: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows that are handed over and lie in no file, by part."""
    handed = {"train": source}
    for part in ("valid", "test"):
        rows = given.get(part)
        if rows is source:
            raise same_data(part, "the same object")
        if rows is not None and as_source(rows) is None:
            handed[part] = rows
    return handed


def _trusted(blueprint: Blueprint | None, given: Mapping[str, Any], source: str) -> Blueprint | None:
    """Return the network of a run file, whose own file of code runs only where the call names it or trusts it.

    Args:
        blueprint: As the run file has it.
        given: What the call says of the network.
        source: The run file.

    Raises:
        NetworkError: the run file names a file of code, and the call neither names nor trusts one.
        SettingError: the call says something else of the network.
    """
    family = "" if blueprint is None else blueprint.family
    named, is_trusted = given.get("network"), given.get("trust_code", False)
    others = [name for name in given if name not in ("network", "trust_code")]
    if not (is_own_file(family) and is_own_file(named or family)):
        others += [name for name, value in (("network", named), ("trust_code", is_trusted)) if value]
    if others:
        raise SettingError(
            f"{', '.join(others)} would be ignored: {source} describes the network",
            hint="change its [blueprint]",
            code="setting-ignored",
        )
    if blueprint is None or not is_own_file(family):
        return blueprint
    if not (named or is_trusted):
        raise NetworkError(
            f"{source} names the network {family}, but Luthier runs its code only if you name or trust it",
            hint=f"read it; then pass network={str(family)!r} or trust_code=True",
            code="network-not-trusted",
        )
    return replace(blueprint, family=named or family)


def _refuse_given(parts: Mapping[str, Mapping[str, Any]], schema: Schema, start: str) -> None:
    """Refuse what is given beside a bundle to start from, whose Schema and network are taken over."""
    data = parts["data"]
    columns = (schema.label_column,) if schema.label_column else tuple(target.name for target in schema.targets)
    positive = schema.targets[0].classes[-1] if schema.task == "binary" else None
    own = {"target": columns, "labels": schema.label_delimiter, "task": schema.task, "positive": positive}
    given = {name: data[name] for name in own if data.get(name)}
    if "target" in given:
        given["target"] = (data["target"],) if isinstance(data["target"], str) else tuple(data["target"])
    other = [name for name, value in given.items() if value != own[name]]
    other += [*(["kind"] if data.get("kind") else []), *parts["network"]]
    if other:
        what = f": it has {other[0]} {own[other[0]]!r}" if other[0] in own else ""
        raise SettingError(
            f"{', '.join(other)} would be ignored: kinds, targets and network are those of {start}{what}",
            hint="leave them out; to change them, train a new model, or take only the weights with weights=",
            code="setting-ignored",
        )


def _check_names(recipe: Mapping[str, Any]) -> None:
    """Refuse an optimizer or scheduler that torch does not have, before the data is read."""
    if isinstance(name := recipe.get("optimizer"), str):
        optimizer_class(name)
    if isinstance(name := recipe.get("scheduler"), str):
        scheduler_name(name)


def _check_class_weights(recipe: Recipe, schema: Schema) -> None:
    """Refuse weights that are not one a class."""
    weights = recipe.class_weights
    if weights is None or isinstance(weights, str) or schema.task not in ("binary", "multiclass"):
        return
    classes = schema.targets[0].classes
    if len(weights) != len(classes):
        raise SettingError(
            f"class_weights has {len(weights)} numbers, and {schema.targets[0].name!r} has {len(classes)} classes",
            hint=f"give one a class, in this order: {', '.join(classes[:10])}{', …' if len(classes) > 10 else ''}",
            code="setting-class-weights",
        )


def _sorted(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    homes = {"data": _DATA, "network": _NETWORK, "recipe": _RECIPE, "check": _CHECK, "finish": _FINISH}
    parts: dict[str, dict[str, Any]] = {part: {} for part in homes}
    for name, value in given.items():
        home = next((part for part, known in homes.items() if name in known), None)
        if home is None:
            raise SettingError(
                f"there is no setting {name!r}",
                hint=did_you_mean(name, set().union(*homes.values())),
                code="setting-unknown",
            )
        parts[home][name] = value
    return parts


def _of(settings: DataSettings) -> dict[str, Any]:
    return {item.name: getattr(settings, item.name) for item in fields(DataSettings)}


def _check_sizes(blueprint: Blueprint, fitting: Blueprint, where: str) -> None:
    """Refuse a run file whose network does not fit its data."""
    for name in ("num_numbers", "category_sizes", "vocabulary_sizes", "series_channels", "channels", "num_outputs"):
        said, found = blueprint.arguments.get(name), fitting.arguments.get(name)
        if said is not None and found is not None and said != found:
            raise NetworkError(
                f"{where} says {name} = {said}, and the data has {found}",
                hint="the data or its kinds changed: run design again, or correct [blueprint.arguments]",
                code="network-does-not-fit",
            )
