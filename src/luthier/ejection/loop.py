"""`train.py` of an ejected run: the loop with this run's settings, and nothing else."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from luthier.core.answering import Answering
from luthier.core.blueprint import Blueprint
from luthier.core.recipe import Recipe
from luthier.core.schema import UNSEEN, Schema
from luthier.core.version import VERSION
from luthier.ejection.figures import write_monitored
from luthier.ejection.text import WIDTH, block, call, identifier, indented, keywords, literal, script, words
from luthier.errors import RunError
from luthier.metrics.criteria import make_criterion
from luthier.metrics.metrics import directions, metrics_for
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

    @property
    def higher_is_better(self) -> bool:
        """Whether the figure that is watched is."""
        return directions(metrics_for(self.schema)).get(self.recipe.monitor, False)

    @property
    def is_image(self) -> bool:
        """Whether the network takes images."""
        return "pixels" in self.schema.blocks

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
    """Return the text of `train.py`.

    Raises:
        RunError: a setting that no ejected project knows.
    """
    recipe = loop.recipe
    if recipe.precision == "fp16" or (recipe.device or "cpu") != "cpu":
        raise RunError(
            f"the run was trained on {recipe.device} with {recipe.precision}, and eject knows runs on the CPU so far",
            hint="train it on the CPU: --device cpu",
            code="run-cannot-eject",
        )
    if recipe.compile:
        raise RunError(
            "the run was trained by a compiled network, and an ejected project compiles none",
            hint="train it without compile",
            code="run-cannot-eject",
        )
    has_monitor_metric = recipe.monitor not in ("valid_loss", "train_loss") and loop.has_valid
    functions = [
        _joined(loop) if loop.is_joined else None,
        _batches(loop),
        _measure(loop),
        _SET_MODES if recipe.freeze else None,
        _evaluate(loop, has_monitor_metric) if loop.has_valid else None,
        write_monitored(recipe.monitor, loop.schema, has_unseen=loop.has_unseen) if has_monitor_metric else None,
        _main(loop, has_monitor_metric) if loop.folds is None else _folds(loop, has_monitor_metric),
        'if __name__ == "__main__":\n    main()',
    ]
    return script(_docstring(loop, story), _imports(loop), _constants(loop, story), functions)


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


def _imports(loop: Loop) -> list[str]:
    averaging = ["from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn"] if loop.recipe.ema else []
    loading = "load_file, save_file" if loop.starts_from else "save_file"
    numpy = ["import numpy as np"] if loop.folds is not None else []
    others = [*numpy, "import torch", f"from safetensors.torch import {loading}", "from torch import nn", *averaging]
    return ["import hashlib", "", *others, "", "import data", f"from network import {identifier(loop.class_name)}"]


def _constants(loop: Loop, story: Story) -> list[str]:
    recipe = loop.recipe
    blocks = tuple(block for block in loop.schema.blocks if block != "pixels")
    return [
        f"SEED, EPOCHS, BATCH_SIZE, THREADS = {recipe.seed}, {recipe.epochs}, {loop.batch_size}, {recipe.threads}",
        f'RUN = "{story.weights}"  # SHA-256 of the weights that the run kept',
        *([f"BLOCKS = {literal(blocks)}  # of each row"] if len(blocks) > 2 else []),
    ]


def _joined(loop: Loop) -> str:
    """Return the function that makes one part of the rows of two."""
    cat, longest = "torch.cat([train[name], valid[name]])", ""
    if {"tokens", "values"} & set(loop.schema.blocks):
        cat = "torch.cat([nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts])"
        longest = """
        parts = train[name], valid[name]
        longest = max(part.shape[-1] if part.ndim > 1 else len(part) for part in parts)
        if parts[0].ndim == 1:
            whole[name] = torch.cat(parts)
            continue"""
    return f'''
def joined(train, valid):
    """Return the rows of both parts: the last network of the run was trained on all of them."""
    whole = {{}}
    for name in train:{longest}
        whole[name] = {cat}
    return whole
'''


def _seeded(use: int) -> list[str]:
    """Return the lines that seed the generator of an epoch: what is drawn depends on the seed and the epoch alone."""
    also = f" + {use} * 0xC2B2AE3D" if use else ""
    return [f"generator.manual_seed((SEED * 0x9E3779B1 + epoch * 0x85EBCA77{also}) & 0xFFFFFFFF)"]


def _batches(loop: Loop) -> str | None:
    """Return the function that forms the images of a batch."""
    if not loop.is_image:
        return None
    lines = ['pixels = part["pixels"].index_select(0, indices)']
    if loop.recipe.augment:
        lines += ["if draws is not None:", "    pixels = data.augment(pixels, draws[indices])"]
    last = ".contiguous(memory_format=torch.channels_last)" if loop.recipe.memory_format == "channels_last" else ""
    drawn = ", draws=None" if loop.recipe.augment else ""
    return f'''
def images(part, indices{drawn}):
    """Return a batch of images (N, C, H, W) as the network takes them."""
{indented(chr(10).join(lines), 4)}
    return data.normalise(pixels){last}
'''


def _forward(loop: Loop, part: str, indices: str) -> list[str]:
    """Return the lines from a batch to its loss and the number it is a mean over."""
    draws = ", draws" if loop.recipe.augment and part == "train" else ""
    blocks = [block for block in loop.schema.blocks if block != "pixels"]
    inputs = [f'{part}["{block}"][{indices}]' for block in blocks]
    if len(blocks) > 2:
        inputs = [f"*({part}[block][{indices}] for block in BLOCKS)"]
    inputs += [f"images({part}, {indices}{draws})"] if loop.is_image else []
    targets = f'{part}["targets"][{indices}]'
    lines, answers, count = [f"logits = module({', '.join(inputs)})"], "logits", f"len({indices})"
    weights = f', {part}["weights"][{indices}]' if loop.has_weights else ""
    if loop.has_unseen and part == "valid":  # those rows have no loss
        lines.append(f"known = ({targets} > {UNSEEN}).reshape(len({indices}), -1).all(dim=1)")
        answers, targets, weights, count = "logits[known]", f"{targets}[known]", f"{weights}[known]", "int(known.sum())"
        weights = weights if loop.has_weights else ""
    if _count(loop) is None:
        return [*lines, f"loss, count = criterion({answers}, {targets}), {count}"]
    return [*lines, f"loss, count = measure(criterion, {answers}, {targets}{weights})"]


def _criterion(loop: Loop) -> tuple[type[nn.Module], str]:
    name = loop.recipe.criterion or ""
    kind = type(make_criterion(name, {}))
    arguments = criterion_arguments(name, loop.recipe, loop.class_counts)
    made = [
        f"{identifier(key)}=torch.tensor({literal(list(value))})"
        if isinstance(value, list | tuple)
        else f"{identifier(key)}={literal(value)}"
        for key, value in arguments.items()
    ]
    return kind, call(f"criterion = nn.{kind.__name__}", made, indent=4)


def _count(loop: Loop) -> str | None:
    """Return what the loss is a mean over where that is not the number of samples."""
    kind, _ = _criterion(loop)
    arguments = criterion_arguments(loop.recipe.criterion or "", loop.recipe, loop.class_counts)
    by_class = issubclass(kind, nn.CrossEntropyLoss | nn.NLLLoss) and "weight" in arguments
    if loop.has_weights:
        return "(weights * criterion.weight[targets]).sum()" if by_class else "weights.sum()"
    if by_class:
        return "criterion.weight[targets].sum()"
    return "(targets != criterion.ignore_index).sum()" if "ignore_index" in arguments else None


def _measure(loop: Loop) -> str | None:
    """Return the function that gives a batch's loss and the number it is a mean over."""
    count = _count(loop)
    if count is None:
        return None
    if loop.has_weights:
        return f'''
def measure(criterion, logits, targets, weights):
    """Return the mean loss of a batch, weighted by row, and the sum of the weights."""
    criterion.reduction = "none"
    losses = criterion(logits, targets).reshape(len(targets), -1).mean(dim=1)
    count = {count}
    return (losses * weights).sum() / count, count
'''
    return f'''
def measure(criterion, logits, targets):
    """Return the loss of a batch, and the number it is a mean over."""
    return criterion(logits, targets), {count}
'''


def _is_sum(loop: Loop) -> bool:
    return loop.recipe.criterion_args.get("reduction") == "sum" and not loop.has_weights


def _add(loop: Loop) -> str:
    """Return the line that adds a batch to the sums of the epoch."""
    count = "count" if _count(loop) is None else "float(count)"
    term = "loss.item()" if _is_sum(loop) else f"loss.item() * {count}"
    return f"total, seen = total + {term}, seen + {count}"


def _cast(loop: Loop, lines: list[str]) -> list[str]:
    """Return lines under autocast, where the run used it."""
    if loop.recipe.precision == "float32":
        return lines
    return ['with torch.autocast("cpu", dtype=torch.bfloat16):', *(f"    {line}" for line in lines)]


def _evaluate(loop: Loop, has_metric: bool) -> str:
    recipe = loop.recipe
    size = recipe.eval_batch_size or loop.batch_size
    chunks = f'torch.arange(len(valid["targets"])).split({size})' + (
        "" if recipe.limit is None else f"[:{recipe.limit}]"
    )
    step = _forward(loop, "valid", "indices")
    lines = [
        "module.eval()",
        "total, seen, outputs = 0.0, 0.0, []" if has_metric else "total, seen = 0.0, 0.0",
        f"for indices in {chunks}:",
        *(f"    {line}" for line in _cast(loop, step)),
        f"    {_add(loop)}" if not loop.has_unseen else f"    if known.any():\n        {_add(loop)}",
        "    outputs.append(logits.float())" if has_metric else "",
    ]
    back = "return total / seen"
    if has_metric:
        whole = "" if recipe.limit is None else "[: len(outputs)]"
        lines.append("outputs = torch.cat(outputs)")
        back = f'return total / seen, monitored(outputs, valid["targets"]{whole})'
    body = "\n".join(line for line in [*lines, back] if line)
    return f'''
@torch.no_grad()
def evaluate(module, criterion, valid):
    """Return the mean loss over the validation rows{", and the figure that decides" if has_metric else ""}."""
{indented(body, 4)}
'''


_SAVE = "\n".join(
    [
        '    save_file(weights, data.HERE / "model.safetensors")',
        "    flat = {name: value.reshape(-1).view(torch.uint8).numpy() for name, value in weights.items()}",
        '    content = b"".join(name.encode() + flat[name].tobytes() for name in sorted(flat))',
        "    is_same = hashlib.sha256(content).hexdigest() == RUN",
        '    print("the weights are", "the run\'s, to the bit" if is_same else "not the run\'s")',
    ]
)


def _main(loop: Loop, has_metric: bool) -> str:
    words = "with the weights of the best epoch" if loop.has_valid else "with the last weights"
    read = (
        "    train, valid = data.read()"
        if loop.has_valid
        else "    train = joined(*data.read())"
        if loop.is_joined
        else "    (train,) = data.read()"
    )
    return block(
        "def main():",
        f'    """Train, and write model.safetensors {words}."""',
        "    torch.set_num_threads(THREADS)",
        read,
        _training(loop, has_metric),
        _SAVE,
    )


def _folds(loop: Loop, has_metric: bool) -> str:
    """Return the functions that train a network a fold."""
    one = block(
        "def train_fold(seed, train, valid):",
        '    """Return the weights of the best epoch of one network."""',
        _training(loop, has_metric).replace("SEED", "seed"),
        "    return weights",
    )
    return f'''{one}


def main():
    """Train a network a fold, each validated on other rows, and write model.safetensors with all of them."""
    torch.set_num_threads(THREADS)
    (rows,) = data.read()
    folds = torch.from_numpy(np.load(data.HERE / "split.npz")["folds"])
    weights = {{}}
    for fold in range({loop.folds}):
        chosen = (folds != fold, folds == fold)
        train, valid = ({{name: part[some] for name, part in rows.items()}} for some in chosen)
        member = train_fold(SEED + fold, train, valid)
        weights |= {{f"members.{{fold}}.{{name}}": value for name, value in member.items()}}
{_SAVE}'''


def _training(loop: Loop, has_metric: bool) -> str:
    """Return the lines that train a network, up to its `weights`."""
    recipe = loop.recipe
    longs = long_arguments(loop.blueprint)
    arguments = keywords({name: value for name, value in loop.blueprint.arguments.items() if name not in longs})
    if longs:
        arguments.append('**data.FACTS["network"]')
    optimizer_cls = optimizer_class(recipe.optimizer or "")
    groups, made = _optimizer(loop, optimizer_cls)
    name, scheduler = _schedule(loop, optimizer_cls)
    per_step = bool(name) and interval_of(name, recipe) == "step"
    setup = block(
        "    torch.manual_seed(SEED)",
        call(f"module = {loop.class_name}", arguments, indent=4),
        "    torch.manual_seed(SEED)",
        '    module.load_state_dict(load_file(data.HERE / "start.safetensors"))' if loop.starts_from else None,
        "    module.to(memory_format=torch.channels_last)" if recipe.memory_format == "channels_last" else None,
        _FREEZE if recipe.freeze else None,
        _criterion(loop)[1],
        groups,
        made,
        scheduler,
        f"    averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn({recipe.ema}))"
        if recipe.ema
        else None,
        "    generator = torch.Generator()" if recipe.shuffle or (loop.is_image and recipe.augment) else None,
        "    step = 0" if recipe.warmup_steps else None,
        "    best, best_weights, waited = None, None, 0" if loop.has_valid else None,
        "    longest = None" if loop.has_valid and recipe.min_delta and recipe.patience else None,
    )
    final = f"{'averaged.module' if recipe.ema else 'module'}.state_dict()"
    final = f"(best_weights or {final})" if loop.has_valid else final
    return block(
        setup,
        "    for epoch in range(EPOCHS):",
        indented(_epoch(loop, per_step), 8),
        indented(_keep_best(loop, name, per_step, has_metric), 8),
        f"    weights = {{name: value.contiguous() for name, value in {final}.items()}}",
    )


_FREEZE = """    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in data.FACTS["frozen"])"""
_SET_MODES = '''
def set_modes(module):
    """Put the module in training mode, but for parts that are frozen: their batch norm stays as it is."""
    module.train()
    for name, part in module.named_modules():
        inside = [f"{name}.{own}".lstrip(".") for own, _ in part.named_parameters()]
        if inside and all(own in data.FACTS["frozen"] for own in inside):
            part.eval()
'''


def _optimizer(loop: Loop, cls: type[Any]) -> tuple[str | None, str]:
    recipe = loop.recipe
    arguments = keywords(optimizer_arguments(cls, recipe))
    if loop.groups is not None:
        groups = """    named = dict(module.named_parameters())
    groups = [{**group, "params": [named[name] for name in group["params"]]} for group in data.FACTS["groups"]]"""
        return groups, call(f"optimizer = torch.optim.{cls.__name__}", ["groups", *arguments], indent=4)
    if recipe.decay_norm_and_bias:
        return None, call(f"optimizer = torch.optim.{cls.__name__}", ["module.parameters()", *arguments], indent=4)
    groups = """    groups = [
        {"params": [parameter for parameter in module.parameters() if parameter.ndim > 1]},
        {"params": [parameter for parameter in module.parameters() if parameter.ndim <= 1], "weight_decay": 0.0},
    ]"""
    return groups, call(f"optimizer = torch.optim.{cls.__name__}", ["groups", *arguments], indent=4)


def _schedule(loop: Loop, cls: type[Any]) -> tuple[str, str | None]:
    """Return the scheduler's class and the line that makes it."""
    recipe = loop.recipe
    if recipe.scheduler is None:
        return "", None
    # its arguments follow from the groups' learning rates, as an optimizer of this class and settings has them
    plain: list[dict[str, Any]] = [{} for _ in range(1 if recipe.decay_norm_and_bias else 2)]
    groups = [{**group, "params": [torch.zeros(1, 1, requires_grad=True)]} for group in loop.groups or plain]
    optimizer = cls(groups, **optimizer_arguments(cls, recipe))
    name, arguments = schedule_arguments(recipe, optimizer, loop.steps_per_epoch, loop.higher_is_better)
    return name, call(f"scheduler = torch.optim.lr_scheduler.{name}", ["optimizer", *keywords(arguments)], indent=4)


def _epoch(loop: Loop, per_step: bool) -> str:
    """Return the body of an epoch, up to its validation."""
    recipe = loop.recipe
    n = 'len(train["targets"])'
    order = f"torch.randperm({n}, generator=generator)" if recipe.shuffle else f"torch.arange({n})"
    most = loop.num_train // loop.batch_size if recipe.drop_last else None
    most = recipe.limit if most is None else most if recipe.limit is None else min(most, recipe.limit)
    chunks = "order.split(BATCH_SIZE)" + ("" if most is None else f"[:{most}]")
    draws = None
    if loop.is_image and recipe.augment:
        draws = block(*_seeded(1), f"draws = torch.rand({n}, data.NUM_DRAWS, generator=generator)")
    return block(
        "set_modes(module)" if recipe.freeze else "module.train()",
        "total, seen = 0.0, 0.0",
        *(_seeded(0) if recipe.shuffle else []),
        f"order = {order}",
        draws,
        f"for indices in {chunks}:",
        indented(_step(loop, per_step), 4),
    )


def _step(loop: Loop, per_step: bool) -> str:
    recipe = loop.recipe
    if recipe.micro_batch_size is None or recipe.micro_batch_size >= loop.batch_size:
        forward = _cast(loop, _forward(loop, "train", "indices"))
        gradient = ["optimizer.zero_grad(set_to_none=True)", *forward, "loss.backward()", _add(loop)]
    else:
        gradient = _micro(loop)
    return block(
        *gradient,
        f"nn.utils.clip_grad_norm_(module.parameters(), {recipe.clip_norm!r})" if recipe.clip_norm else None,
        f"nn.utils.clip_grad_value_(module.parameters(), {recipe.clip_value!r})" if recipe.clip_value else None,
        _warmed(recipe) if recipe.warmup_steps else "optimizer.step()",
        "scheduler.step()" if per_step else None,
        "averaged.update_parameters(module)" if recipe.ema else None,
    )


def _micro(loop: Loop) -> list[str]:
    """Return the gradient of a batch in micro-batches: each weighted by its count, the sum divided by theirs."""
    size = loop.recipe.micro_batch_size
    share = "loss" if _is_sum(loop) else f"loss * count if len(indices) > {size} else loss"
    lines = [
        "optimizer.zero_grad(set_to_none=True)",
        "shares, counted = [], 0.0",
        f"for part in indices.split({size}):",
        *(f"    {line}" for line in _cast(loop, _forward(loop, "train", "part"))),
        f"    share = {share}",
        "    share.backward()",
        "    shares.append(share.detach())",
        "    counted = counted + count",
        "loss, count = torch.stack(shares).sum(), counted",
    ]
    if not _is_sum(loop):
        lines += [
            f"if len(indices) > {size}:",
            "    loss = loss / count",
            "    for parameter in module.parameters():",
            "        if parameter.grad is not None:",
            "            parameter.grad /= count",
        ]
    return [*lines, _add(loop)]


def _warmed(recipe: Recipe) -> str:
    return f"""rates = [group["lr"] for group in optimizer.param_groups]
if step < {recipe.warmup_steps}:
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * ((step + 1) / {recipe.warmup_steps})
optimizer.step()
for group, rate in zip(optimizer.param_groups, rates):
    group["lr"] = rate
step += 1"""


def _keep_best(loop: Loop, scheduler: str, per_step: bool, has_metric: bool) -> str:
    """Return the end of an epoch: validation, the best weights, the schedule, early stopping."""
    recipe = loop.recipe
    evaluated = "averaged.module" if recipe.ema else "module"
    if not loop.has_valid:
        step = None
        if scheduler and not per_step:
            step = "scheduler.step(total / seen)" if scheduler == "ReduceLROnPlateau" else "scheduler.step()"
        return block('print(f"epoch {epoch + 1}: train_loss {total / seen:.6g}")', step)
    higher = loop.higher_is_better
    sign = ">" if higher else "<"
    found = "valid_loss, value" if has_metric else "valid_loss"
    value = {"valid_loss": "valid_loss", "train_loss": "train_loss"}.get(recipe.monitor, "value")
    step = None
    if scheduler and not per_step:
        step = f"scheduler.step({value})" if scheduler == "ReduceLROnPlateau" else "scheduler.step()"
    best = f"""if {value} == {value} and (best is None or {value} {sign} best):
    best = {value}
    best_weights = {{name: tensor.clone() for name, tensor in {evaluated}.state_dict().items()}}"""
    stop = None
    if recipe.patience and recipe.min_delta:
        margin = f"longest + {recipe.min_delta!r}" if higher else f"longest - {recipe.min_delta!r}"
        stop = f"""waited += 1
if longest is None or {value} {sign} {margin}:
    longest, waited = {value}, 0
if waited == {recipe.patience}:
    break"""
    elif recipe.patience:
        best = best.replace(f"    best = {value}", f"    best, waited = {value}, -1")
        stop = f"waited += 1\nif waited == {recipe.patience}:\n    break"
    return block(
        "train_loss = total / seen",
        f"{found} = evaluate({evaluated}, criterion, valid)",
        'print(f"epoch {epoch + 1}: train_loss {train_loss:.6g}, valid_loss {valid_loss:.6g}")',
        best,
        step,
        stop,
    )
