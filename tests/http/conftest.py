"""Small models of each kind that is served, and a client without a network."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import luthier
from luthier.http.app import App

N = 80
RANDOM = np.random.default_rng(0)
TABLE: dict[str, list[Any]] = {
    "size": RANDOM.normal(size=N).round(3).tolist(),
    "city": ["Bonn", "Köln", "Essen", "Bonn"] * (N // 4),
    "day": [f"2024-01-{1 + i % 28:02d}" for i in range(N)],
    "paid": ["yes", "no"] * (N // 2),
}
TARGETS: dict[str, tuple[dict[str, list[Any]], dict[str, Any]]] = {
    "words": ({"y": ["a", "b", "a", "c"] * (N // 4)}, {}),
    "flags": ({"y": [i % 3 == 0 for i in range(N)]}, {}),
    "whole": ({"y": [1, 2, 3, 4] * (N // 4)}, {"task": "multiclass"}),
    "number": ({"y": (np.array(TABLE["size"]) * 3).tolist()}, {}),
    "interval": ({"y": (np.array(TABLE["size"]) * 3).tolist()}, {"interval": 0.8, "folds": 2}),
    "sets": ({"y": ["a", "b"] * (N // 2)}, {"interval": 0.8, "folds": 2}),
    "numbers": ({"y": TABLE["size"], "z": [-size for size in TABLE["size"]]}, {"task": "regression"}),
    "labels": ({"y": [0, 1] * (N // 2), "z": [1, 1, 0, 0] * (N // 4)}, {"task": "multilabel"}),
}


NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_numbers: int, category_sizes: list[int], num_outputs: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in category_sizes)
        self.head = nn.Linear(num_numbers + 4 * len(category_sizes), num_outputs)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        embedded = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return self.head(torch.cat([numbers, *embedded], dim=1))
"""


def rows(count: int = 5) -> list[dict[str, Any]]:
    return [{name: values[i] for name, values in TABLE.items()} for i in range(count)]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return where a model of a kind is, which is trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("models")

    def made(kind: str) -> Path:
        path = folder / f"{kind}.safetensors"
        if path.exists():
            return path
        if kind == "photos":
            for name, base in (("dark", 40), ("light", 200)):
                (folder / "photos" / name).mkdir(parents=True)
                for i in range(20):
                    pixels = RANDOM.normal(base, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.png")
            result = luthier.train(folder / "photos", epochs=1, seed=0, verbose=False)
        elif kind == "shots":
            (folder / "shots").mkdir()
            for i in range(40):
                pixels = RANDOM.normal(60 + 100 * (i % 2), 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "shots" / f"{i}.png")
            shots = [f"{folder}/shots/{i}.png" for i in range(40)]
            data = {"shot": shots, "size": TABLE["size"][:40], "y": ["a", "b"] * 20}
            result = luthier.train(data, target="y", epochs=1, seed=0, verbose=False)
        elif kind == "own":
            (folder / "nets.py").write_text(NETS)
            data = {**TABLE, "y": ["a", "b"] * (N // 2)}
            network = f"{folder / 'nets.py'}:Net"
            result = luthier.train(data, target="y", network=network, epochs=1, seed=0, verbose=False)
        elif kind == "series":
            steps = {"s": [RANDOM.normal(size=4 + i % 3).tolist() for i in range(N)], "y": ["a", "b"] * (N // 2)}
            result = luthier.train(steps, target="y", epochs=1, seed=0, verbose=False)
        elif kind == "text":
            words = [" ".join(RANDOM.choice(["good", "bad", "film"], 7)) for _ in range(N)]
            data = {"t": words, "y": ["a", "b"] * (N // 2)}
            result = luthier.train(data, target="y", kind={"t": "text"}, epochs=1, seed=0, verbose=False)
        else:
            targets, more = TARGETS[kind]
            result = luthier.train(
                {**TABLE, **targets}, target=[*targets], epochs=2, seed=0, check=False, verbose=False, **more
            )
        result.save(path)
        return path

    return made


class Client:
    """Asks an application without a network."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **given: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **given)

        return asyncio.run(ask())

    def predict(self, path: str = "/predict", **given: Any) -> Any:
        answer = self("POST", path, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def client(bundle: Callable[[str], Path]) -> Client:
    return Client(App([str(bundle("words"))]))
