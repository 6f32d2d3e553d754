"""SimCLR: two random views of each picture, NT-Xent (Chen et al. 2020; sthalles/SimCLR)."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import luthier
from tests.custom.programs import Outcome, mean
from tests.custom.programs.dcgan import pictures


def augment(images: Tensor) -> Tensor:
    """Return each picture cropped at a place of its own, some mirrored, with other brightness and noise."""
    padded = F.pad(images, (2, 2, 2, 2), value=-1.0)
    views = []
    for image in padded:
        top, left = random.randrange(5), random.randrange(5)
        view = image[:, top : top + 16, left : left + 16]
        views.append(view.flip(-1) if random.random() < 0.5 else view)
    out = torch.stack(views) * torch.empty(len(images), 1, 1, 1).uniform_(0.6, 1.4)
    return out + 0.1 * torch.randn_like(out)


class SimCLR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.projector = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.backbone(x))
        return projected


def info_nce(features: Tensor, temperature: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return logits and labels for the 2N views: the positive first."""
    n = len(features) // 2
    labels = torch.arange(n).repeat(2)
    same = labels[None] == labels[:, None]
    features = F.normalize(features, dim=1)
    similarity = features @ features.T
    mask = torch.eye(2 * n, dtype=torch.bool)
    same, similarity = same[~mask].view(2 * n, -1), similarity[~mask].view(2 * n, -1)
    logits = torch.cat([similarity[same].view(2 * n, -1), similarity[~same].view(2 * n, -1)], 1)
    return logits / temperature, torch.zeros(2 * n, dtype=torch.long)


def plain() -> Outcome:
    torch.manual_seed(0)
    random.seed(0)
    model = SimCLR()
    loader = DataLoader(TensorDataset(pictures(200)), batch_size=32, shuffle=True, drop_last=True)
    optimizer = optim.Adam(model.parameters(), 3e-3, weight_decay=1e-4)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3 * len(loader))
    criterion = nn.CrossEntropyLoss()
    rows = []

    for _ in range(3):
        losses, accuracies = [], []
        for (images,) in loader:
            features = model(torch.cat([augment(images), augment(images)]))
            logits, labels = info_nce(features)
            loss = criterion(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.detach())
            accuracies.append((logits.argmax(1) == 0).float().mean())
        rows.append({"loss": mean(losses), "accuracy": mean(accuracies)})
    return {"model": model.state_dict(), "scheduler": scheduler.state_dict()}, rows


def with_run(folder: Path, **settings: Any) -> Outcome:
    torch.manual_seed(0)
    random.seed(0)
    model = SimCLR()
    loader = DataLoader(TensorDataset(pictures(200)), batch_size=32, shuffle=True, drop_last=True)
    optimizer = optim.Adam(model.parameters(), 3e-3, weight_decay=1e-4)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3 * len(loader))
    criterion = nn.CrossEntropyLoss()

    with luthier.run(folder, model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, **settings) as run:
        for _ in run.epochs(3):
            for (images,) in run.batches(loader):
                features = model(torch.cat([augment(images), augment(images)]))
                logits, labels = info_nce(features)
                loss = criterion(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                run.log(loss=loss, accuracy=(logits.argmax(1) == 0).float().mean())
    return {"model": model.state_dict(), "scheduler": scheduler.state_dict()}, run.record.epochs
