"""Train a network in plain PyTorch: the loop of an ejected project, with a branch for every setting.

This is no module of the library. `eject` writes it as `train.py`, beside `data.py` and `network.py`: it sets the
constants, and leaves out each branch that a constant rules out and what is not used then.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import data  # type: ignore[import-not-found]
from figures import accuracy, auc, f1, mae, r2, rmse  # type: ignore[import-not-found]  # noqa: F401
from network import Network  # type: ignore[import-not-found]
from trunk import features, fold, scaled, scales  # type: ignore[import-not-found]

SEED = 0
EPOCHS = 10
BATCH_SIZE = 32
THREADS = 1
RUN = ""  # SHA-256 of the weights that the run kept
BLOCKS: tuple[str, ...] = ("numbers", "categories")  # of each row, before its image
NETWORK_ARGS: dict[str, Any] = {}
CRITERION: Any = nn.CrossEntropyLoss
CRITERION_ARGS: dict[str, Any] = {}
OPTIMIZER: Any = torch.optim.AdamW
OPTIMIZER_ARGS: dict[str, Any] = {}
SCHEDULER: Any = torch.optim.lr_scheduler.ConstantLR
SCHEDULER_ARGS: dict[str, Any] = {}
SCHEDULE = ""  # when the schedule moves: step, epoch, or plateau, which takes the figure too
HAS_VALID = True
HAS_LENGTHS = False  # blocks may be of other lengths in each part
IS_JOINED = False  # validation rows are trained on too
FOLDS = 0
HAS_START = False
GROUPS = "all"  # what the optimizer moves: all, by dimension, or named
FREEZES = False
HEAD = ""  # the layer that is trained alone, on what the others give, computed once
HAS_WEIGHTS = False  # of rows
HAS_CLASS_WEIGHTS = False
HAS_IGNORED = False
HAS_UNSEEN = False  # validation rows have classes that training rows do not have
IS_SUM = False
SHUFFLE = True
DROP_LAST = False
LIMIT = 0  # batches an epoch
EVAL_BATCH_SIZE = 32
SHARDS = 1  # parts that a batch is computed in
MICRO_BATCH_SIZE = 0  # samples computed at a time
PRECISION = "float32"
IS_IMAGE = False
AUGMENT: tuple[str, ...] = ()
CHANNELS_LAST = False
CLIP_NORM = 0.0
CLIP_VALUE = 0.0
WARMUP_STEPS = 0
EMA = 0.0
MONITOR = "valid_loss"
HIGHER_IS_BETTER = False
HAS_FIGURE = False
FIGURE: Any = rmse
PATIENCE = 0
MIN_DELTA = 0.0

Rows = dict[str, Tensor]


def joined(train: Rows, valid: Rows) -> Rows:
    """Return the rows of both parts: the last network of the run was trained on all of them."""
    whole = {}
    for name in train:
        parts = [train[name], valid[name]]
        if HAS_LENGTHS:
            longest = max(part.shape[-1] for part in parts)
            if parts[0].ndim > 1:
                parts = [nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts]
        whole[name] = torch.cat(parts)
    return whole


def inputs_of(part: Rows, indices: Tensor) -> list[Tensor]:
    """Return what the network takes of some rows."""
    inputs = [part[block][indices] for block in BLOCKS]
    if IS_IMAGE:
        pixels = part["pixels"].index_select(0, indices)
        if AUGMENT and "draws" in part:
            fill = data.filling(data.MEANS, data.SCALE, pixels)
            pixels = data.augment(pixels, part["draws"][indices], AUGMENT, fill)
        pixels = data.normalise(pixels, data.MEANS, data.STDS, data.SCALE)
        if CHANNELS_LAST:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        inputs.append(pixels)
    return inputs


def outputs_of(module: nn.Module, part: Rows, indices: Tensor) -> Any:
    """Return what the network gives for some rows."""
    return module(*([part["features"][indices]] if HEAD else inputs_of(part, indices)))


def measure(criterion: Any, outputs: Tensor, part: Rows, indices: Tensor) -> tuple[Tensor, Any]:
    """Return the loss of some rows, and the number that it is a mean over."""
    targets = part["targets"][indices]
    if HAS_WEIGHTS:
        weights = part["weights"][indices]
        losses = criterion(outputs, targets).reshape(len(targets), -1).mean(dim=1)
        count = (weights * criterion.weight[targets] if HAS_CLASS_WEIGHTS else weights).sum()
        return (losses * weights).sum() / count, count
    if HAS_CLASS_WEIGHTS:
        return criterion(outputs, targets), criterion.weight[targets].sum()
    if HAS_IGNORED:
        return criterion(outputs, targets), (targets != criterion.ignore_index).sum()
    return criterion(outputs, targets), len(targets)


def backward_in_parts(module: nn.Module, criterion: Any, train: Rows, indices: Tensor) -> tuple[Any, Any]:
    """Compute a gradient over a few rows at a time, each part by its share; return the loss and its count."""
    shares, counted = [], 0.0
    for part in indices.split(MICRO_BATCH_SIZE):
        if PRECISION == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = outputs_of(module, train, part)
                loss, count = measure(criterion, outputs, train, part)
        else:
            outputs = outputs_of(module, train, part)
            loss, count = measure(criterion, outputs, train, part)
        if not IS_SUM and len(indices) > MICRO_BATCH_SIZE:
            loss = loss * count
        loss.backward()
        shares.append(loss.detach())
        counted = counted + count
    loss = torch.stack(shares).sum()
    if not IS_SUM and len(indices) > MICRO_BATCH_SIZE:
        loss = loss / counted
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad /= counted
    return loss, counted


def backward_in_shards(
    module: nn.Module, criterion: Any, train: Rows, indices: Tensor, seed: int, step: int
) -> tuple[Any, Any]:
    """Compute a gradient over the shards of a batch, each a batch of its own; return the loss and its count."""
    parameters, buffers = [p for p in module.parameters() if p.requires_grad], list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    vectors, sums, changes, is_reached = [], [], [], [False] * len(parameters)
    for shard, part in enumerate(indices.split(-(-len(indices) // SHARDS))):
        module.zero_grad()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        seed_shard(seed, step, shard)
        if PRECISION == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = outputs_of(module, train, part)
                loss, count = measure(criterion, outputs, train, part)
        else:
            outputs = outputs_of(module, train, part)
            loss, count = measure(criterion, outputs, train, part)
        if not IS_SUM:
            loss = loss * count
        if count > 0:
            loss.backward()
        found = [p.grad for p in parameters]
        is_reached = [old or grad is not None for old, grad in zip(is_reached, found, strict=True)]
        flat = [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, found, strict=True)]
        vectors.append(torch.cat([gradient.reshape(-1) for gradient in flat]))
        sums.append(torch.tensor([loss.item() if count > 0 else 0.0, float(count)], dtype=torch.float64))
        changes.append([buffer.double() for buffer in buffers])
    seed_shard(seed, step, -1)
    total, count = added(sums).tolist()
    over = 1.0 if IS_SUM else count
    pieces = (added(vectors) / over).split([p.numel() for p in parameters])
    for parameter, piece, reached in zip(parameters, pieces, is_reached, strict=True):
        parameter.grad = piece.view_as(parameter) if reached else None
    for buffer, value, of_shards in zip(buffers, before, zip(*changes, strict=True), strict=True):
        mean = added(list(of_shards)) / len(of_shards)
        moved = any(not torch.equal(one, value.double()) for one in of_shards)
        buffer.copy_((mean if buffer.is_floating_point() else mean.round()) if moved else value)
    return torch.tensor(total / over, dtype=torch.float64), count


def added(vectors: list[Tensor]) -> Tensor:
    """Return the sum of vectors over a binary tree, neighbours first: the order that any number of processes keeps."""
    while len(vectors) > 1:
        pairs = [vectors[i : i + 2] for i in range(0, len(vectors), 2)]
        vectors = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    return vectors[0]


def seed_shard(seed: int, step: int, shard: int) -> None:
    """Seed what a network draws in one shard of one update; -1 is after all of them."""
    value = (seed ^ 0x5DA9D5) * 0x9E3779B1 + step * 0x85EBCA77 + (shard + 1) * 0xC2B2AE3D
    torch.manual_seed(value & 0xFFFFFFFF)


def head_of(network: nn.Module, train: Rows, valid: Any) -> Any:
    """Compute what the last layer is given for all rows; return the layer to train (zeros), and how they are scaled."""
    parts = [train, valid] if HAS_VALID else [train]
    for part in parts:
        chunks = torch.arange(len(part["targets"])).split(EVAL_BATCH_SIZE)
        part["features"] = features(network, HEAD, (inputs_of(part, indices) for indices in chunks))
    scale = scales(train["features"])
    for part in parts:
        part["features"] = scaled(part["features"], *scale)
    last: Any = network.get_submodule(HEAD)
    head = nn.Linear(last.in_features, last.out_features)
    for value in head.parameters():
        nn.init.zeros_(value)
    return head, scale


def set_modes(module: nn.Module) -> None:
    """Put the module in training mode, but for parts that are frozen: their batch norm stays as it is."""
    module.train()
    for name, part in module.named_modules():
        inside = [f"{name}.{own}".lstrip(".") for own, _ in part.named_parameters()]
        if inside and all(own in data.FACTS["frozen"] for own in inside):
            part.eval()


@torch.no_grad()
def evaluate(module: nn.Module, criterion: Any, valid: Rows) -> Any:
    """Return the mean loss over the validation rows, and the outputs where a figure of them decides."""
    module.eval()
    total, seen = 0.0, 0.0
    if HAS_FIGURE:
        kept = []
    chunks = torch.arange(len(valid["targets"])).split(EVAL_BATCH_SIZE)
    if LIMIT:
        chunks = chunks[:LIMIT]
    for indices in chunks:
        if PRECISION == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = outputs_of(module, valid, indices)
        else:
            outputs = outputs_of(module, valid, indices)
        if HAS_FIGURE:
            kept.append(outputs.float())
        if HAS_UNSEEN:
            known = (valid["targets"][indices] > -100).reshape(len(indices), -1).all(dim=1)
            outputs, indices = outputs[known], indices[known]
            if not len(indices):
                continue
        if PRECISION == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, count = measure(criterion, outputs, valid, indices)
        else:
            loss, count = measure(criterion, outputs, valid, indices)
        total, seen = total + loss.item() * (1 if IS_SUM else float(count)), seen + float(count)
    if HAS_FIGURE:
        return total / seen, torch.cat(kept)
    return total / seen


def fitted(train: Rows, valid: Any = None, seed: int = SEED) -> Rows:
    """Return the weights of a trained network: of the best epoch, where there are rows to validate on."""
    torch.manual_seed(seed)
    module = Network(**NETWORK_ARGS)
    torch.manual_seed(seed)
    if HAS_START:
        module.load_state_dict(load_file(data.HERE / "start.safetensors"))
    if CHANNELS_LAST:
        module.to(memory_format=torch.channels_last)
    if FREEZES:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in data.FACTS["frozen"])
    if HEAD:
        network = module
        module, scale = head_of(network, train, valid)
    criterion = CRITERION(**CRITERION_ARGS)
    if HAS_WEIGHTS:
        criterion.reduction = "none"
    groups: Any
    if GROUPS == "all":
        groups = module.parameters()
    elif GROUPS == "by dimension":
        groups = [
            {"params": [parameter for parameter in module.parameters() if parameter.ndim > 1]},
            {"params": [parameter for parameter in module.parameters() if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
    elif GROUPS == "named":
        named = dict(module.named_parameters())
        groups = [{**group, "params": [named[name] for name in group["params"]]} for group in data.FACTS["groups"]]
    optimizer = OPTIMIZER(groups, **OPTIMIZER_ARGS)
    if SCHEDULE:
        scheduler = SCHEDULER(optimizer, **SCHEDULER_ARGS)
    if EMA:
        averaged = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(EMA))
    evaluated = averaged.module if EMA else module
    if SHUFFLE or AUGMENT:
        generator = torch.Generator()
    if WARMUP_STEPS or SHARDS > 1:
        step = 0
    if HAS_VALID:
        best, weights, waited = None, None, 0
    if PATIENCE and MIN_DELTA:
        longest = None
    for epoch in range(EPOCHS):
        if FREEZES:
            set_modes(module)
        else:
            module.train()
        if SHUFFLE:
            generator.manual_seed((seed * 0x9E3779B1 + epoch * 0x85EBCA77) & 0xFFFFFFFF)
            order = torch.randperm(len(train["targets"]), generator=generator)
        else:
            order = torch.arange(len(train["targets"]))
        if AUGMENT:
            generator.manual_seed((seed * 0x9E3779B1 + epoch * 0x85EBCA77 + 1 * 0xC2B2AE3D) & 0xFFFFFFFF)
            num_draws = sum(data.NUM_DRAWS[kind] for kind in AUGMENT)
            train["draws"] = torch.rand(len(order), num_draws, generator=generator)
        if DROP_LAST:
            order = order[: len(order) // BATCH_SIZE * BATCH_SIZE]
        if LIMIT:
            order = order[: LIMIT * BATCH_SIZE]
        total, seen = 0.0, 0.0
        for indices in order.split(BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            if SHARDS > 1:
                loss, count = backward_in_shards(module, criterion, train, indices, seed, step)
            elif MICRO_BATCH_SIZE:
                loss, count = backward_in_parts(module, criterion, train, indices)
            elif PRECISION == "bf16":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    outputs = outputs_of(module, train, indices)
                    loss, count = measure(criterion, outputs, train, indices)
                loss.backward()
            else:
                outputs = outputs_of(module, train, indices)
                loss, count = measure(criterion, outputs, train, indices)
                loss.backward()
            total, seen = total + loss.item() * (1 if IS_SUM else float(count)), seen + float(count)
            if CLIP_NORM:
                nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
            if CLIP_VALUE:
                nn.utils.clip_grad_value_(module.parameters(), CLIP_VALUE)
            if WARMUP_STEPS:
                rates = [group["lr"] for group in optimizer.param_groups]
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * min((step + 1) / WARMUP_STEPS, 1.0)
                optimizer.step()
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
            else:
                optimizer.step()
            if WARMUP_STEPS or SHARDS > 1:
                step += 1
            if SCHEDULE == "step":
                scheduler.step()
            if EMA:
                averaged.update_parameters(module)
        train_loss = total / seen
        if HAS_VALID:
            if HAS_FIGURE:
                valid_loss, outputs = evaluate(evaluated, criterion, valid)
            else:
                valid_loss = evaluate(evaluated, criterion, valid)
            print(f"epoch {epoch + 1}: train_loss {train_loss:.6g}, valid_loss {valid_loss:.6g}")
        else:
            print(f"epoch {epoch + 1}: train_loss {train_loss:.6g}")
        if MONITOR == "train_loss":
            value = train_loss
        elif MONITOR == "valid_loss":
            value = valid_loss
        else:
            value = FIGURE(outputs, valid["targets"][: len(outputs)] if LIMIT else valid["targets"])
        if HAS_VALID and value == value and (best is None or (value > best if HIGHER_IS_BETTER else value < best)):
            best = value
            weights = {name: tensor.clone() for name, tensor in evaluated.state_dict().items()}
            if PATIENCE and not MIN_DELTA:
                waited = -1
        if SCHEDULE == "epoch":
            scheduler.step()
        elif SCHEDULE == "plateau":
            scheduler.step(value)
        if HAS_VALID and PATIENCE:
            waited += 1
            if MIN_DELTA:
                gain = MIN_DELTA if HIGHER_IS_BETTER else -MIN_DELTA
                if longest is None or (value > longest + gain if HIGHER_IS_BETTER else value < longest + gain):
                    longest, waited = value, 0
            if waited == PATIENCE:
                break
    if not HAS_VALID:
        weights = evaluated.state_dict()
    weights = weights or evaluated.state_dict()
    if HEAD:
        fold(weights, network.get_submodule(HEAD), *scale)
        weights = network.state_dict()
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def main() -> None:
    """Train, and write model.safetensors."""
    torch.set_num_threads(THREADS)
    if FOLDS:
        (rows,) = data.read()
        folds = torch.from_numpy(np.load(data.HERE / "split.npz")["folds"])
        weights: Rows = {}
        for fold in range(FOLDS):
            chosen = (folds != fold, folds == fold)
            train, valid = ({name: part[some] for name, part in rows.items()} for some in chosen)
            member = fitted(train, valid, SEED + fold)
            weights |= {f"members.{fold}.{name}": value for name, value in member.items()}
    elif IS_JOINED:
        weights = fitted(joined(*data.read()))
    else:
        weights = fitted(*data.read())
    save_file(weights, data.HERE / "model.safetensors")
    flat = {name: value.reshape(-1).view(torch.uint8).numpy() for name, value in weights.items()}
    content = b"".join(name.encode() + flat[name].tobytes() for name in sorted(flat))
    is_same = hashlib.sha256(content).hexdigest() == RUN
    print("the weights are", "the run's, to the bit" if is_same else "not the run's")


if __name__ == "__main__":
    main()
