"""A tiny character GPT: random crops, accumulated gradients, warmup and cosine, estimated losses (karpathy/nanoGPT)."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier
from tests.custom.programs import Outcome, steps_of

TEXT = "the quick brown fox jumps over the lazy dog, and the slow red hen sits under a warm sun. " * 40
LETTERS = sorted(set(TEXT))
BLOCK = 32


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (2, -1)).transpose(1, 2) for part in self.qkv(self.ln_1(x)).split(x.shape[2], dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        added: Tensor = x + self.mlp(self.ln_2(x))
        return added


class GPT(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(len(LETTERS), width), nn.Embedding(BLOCK, width)
        self.blocks, self.ln_f = nn.Sequential(Block(width), Block(width)), nn.LayerNorm(width)
        self.head = nn.Linear(width, len(LETTERS), bias=False)
        self.wte.weight = self.head.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits = self.head(self.ln_f(self.blocks(self.wte(x) + self.wpe.weight[: x.shape[1]])))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def splits() -> tuple[Tensor, Tensor]:
    ids = torch.tensor([LETTERS.index(letter) for letter in TEXT])
    return ids[:3000], ids[3000:]


def get_batch(data: Tensor) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(data) - BLOCK, (8,)).tolist()
    return torch.stack([data[i : i + BLOCK] for i in starts]), torch.stack(
        [data[i + 1 : i + 1 + BLOCK] for i in starts]
    )


@torch.no_grad()
def estimate_loss(model: GPT, data: dict[str, Tensor]) -> dict[str, Tensor]:
    model.eval()
    out = {split: torch.stack([model(*get_batch(part)) for _ in range(4)]).mean() for split, part in data.items()}
    model.train()
    return out


def get_lr(it: int) -> float:
    if it < 5:
        return 3e-3 * (it + 1) / 6
    return 3e-4 + 0.5 * (1 + math.cos(math.pi * (it - 5) / 35)) * 2.7e-3


def plain() -> Outcome:
    torch.manual_seed(1337)
    train, valid = splits()
    model = GPT()
    optimizer = optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    best_val_loss, best_state = 1e9, {}
    rows = []

    X, Y = get_batch(train)
    for iter_num in range(40):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(iter_num)
        if iter_num % 10 == 0:
            found = estimate_loss(model, {"train": train, "val": valid})
            if found["val"] < best_val_loss:
                best_val_loss = found["val"].item()
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(2):
            loss = model(X, Y) / 2
            X, Y = get_batch(train)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (iter_num + 1) % 10 == 0:
            rows.append({"loss": loss.item() * 2})
    model.load_state_dict(best_state)
    return {"best": model.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(1337)
    train, valid = splits()
    model = GPT()
    optimizer = optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)

    X, Y = get_batch(train)
    with luthier.run(folder, model=model, optimizer=optimizer, X=X, Y=Y, log_every_steps=10, **settings) as run:
        for iter_num in run.steps(40):
            for group in optimizer.param_groups:
                group["lr"] = get_lr(iter_num)
            if iter_num % 10 == 0:
                found = estimate_loss(model, {"train": train, "val": valid})
                run.log(val=found["val"])
                run.best.update(found["val"])
            for _ in range(2):
                loss = model(run.X, run.Y) / 2
                run.X, run.Y = get_batch(train)
                loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            run.log(loss=loss * 2)
        run.best.restore()
    return {"best": model.state_dict()}, steps_of(run.record)
