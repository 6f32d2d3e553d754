"""DINO: a student, a teacher that follows it, a centre, schedules by step (facebookresearch/dino)."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import luthier
from tests.custom.programs import Outcome, mean, seed_everything
from tests.custom.programs.dcgan import pictures
from tests.custom.programs.simclr import augment


class Crops(Dataset[list[Tensor]]):
    """Two large views and two small ones of each picture, drawn when it is asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = self.images[index][None]
        views = [augment(image)[0] for _ in range(4)]
        return [*views[:2], *(view[:, 4:12, 4:12] for view in views[2:])]


class Net(nn.Module):
    """A backbone for pictures of any size, and DINO's head."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 32, 3, 2, 1), nn.GELU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 16))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(16, dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(F.normalize(self.head(self.backbone(x)), dim=-1))
        return logits


class DINOLoss(nn.Module):
    center: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(1, dim))

    def forward(self, student: list[Tensor], teacher: list[Tensor], temperature: float) -> Tensor:
        losses = []
        for i, q in enumerate(teacher):
            target = F.softmax((q - self.center) / temperature, -1).detach()
            for j, s in enumerate(student):
                if i != j:
                    losses.append(-(target * F.log_softmax(s / 0.1, -1)).sum(-1).mean())
        with torch.no_grad():
            self.center = self.center * 0.9 + torch.cat(teacher).mean(0, keepdim=True) * 0.1
        return torch.stack(losses).mean()


def cosine_schedule(start: float, end: float, steps: int) -> NDArray[np.float64]:
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * np.arange(steps) / steps))


def plain() -> Outcome:
    seed_everything(0)
    epochs = 3
    student = Net()
    teacher = copy.deepcopy(student).requires_grad_(False)
    dino_loss = DINOLoss(32)
    loader = DataLoader(Crops(pictures(72)), batch_size=12, shuffle=True)
    optimizer = optim.AdamW(student.parameters())
    lr_schedule = cosine_schedule(3e-3, 1e-5, epochs * len(loader))
    wd_schedule = cosine_schedule(0.04, 0.4, epochs * len(loader))
    momentum_schedule = cosine_schedule(0.9, 1, epochs * len(loader))
    rows = []

    for epoch in range(epochs):
        losses = []
        temperature = np.linspace(0.04, 0.07, epochs)[epoch]
        for i, crops in enumerate(loader):
            it = len(loader) * epoch + i
            for group in optimizer.param_groups:
                group["lr"], group["weight_decay"] = lr_schedule[it], wd_schedule[it]
            with torch.no_grad():
                targets = [teacher(crop) for crop in crops[:2]]
            loss = dino_loss([student(crop) for crop in crops], targets, temperature)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            if epoch < 1:
                for p in student.last.parameters():
                    p.grad = None
            optimizer.step()
            with torch.no_grad():
                m = momentum_schedule[it]
                for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
                    k.mul_(m).add_((1 - m) * q.detach())
            losses.append(loss.detach())
        rows.append({"loss": mean(losses)})
    return {"student": student.state_dict(), "teacher": teacher.state_dict(), "center": dino_loss.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    seed_everything(0)
    epochs = 3
    student = Net()
    teacher = copy.deepcopy(student).requires_grad_(False)
    dino_loss = DINOLoss(32)
    loader = DataLoader(Crops(pictures(72)), batch_size=12, shuffle=True)
    optimizer = optim.AdamW(student.parameters())
    lr_schedule = cosine_schedule(3e-3, 1e-5, epochs * len(loader))
    wd_schedule = cosine_schedule(0.04, 0.4, epochs * len(loader))
    momentum_schedule = cosine_schedule(0.9, 1, epochs * len(loader))

    with luthier.run(
        folder, student=student, teacher=teacher, dino_loss=dino_loss, optimizer=optimizer, loader=loader, **settings
    ) as run:
        for epoch in run.epochs(epochs):
            temperature = np.linspace(0.04, 0.07, epochs)[epoch]
            for crops in run.batches(loader):
                it = run.global_step
                for group in optimizer.param_groups:
                    group["lr"], group["weight_decay"] = lr_schedule[it], wd_schedule[it]
                with torch.no_grad():
                    targets = [teacher(crop) for crop in crops[:2]]
                loss = dino_loss([student(crop) for crop in crops], targets, temperature)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(student.parameters(), 3.0)
                if epoch < 1:
                    for p in student.last.parameters():
                        p.grad = None
                optimizer.step()
                with torch.no_grad():
                    m = momentum_schedule[it]
                    for q, k in zip(student.parameters(), teacher.parameters(), strict=True):
                        k.mul_(m).add_((1 - m) * q.detach())
                run.log(loss=loss)
    states = {"student": student.state_dict(), "teacher": teacher.state_dict(), "center": dino_loss.state_dict()}
    return states, run.record.epochs
