"""Sixteen threads ask one Model of each family, fresh from `train` and from `load`: answers as of one thread."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier

RANDOM = np.random.default_rng(0)
N = 48
PIXELS = RANDOM.integers(0, 255, (N, 12, 12)).astype(np.uint8)
CLASSES = np.arange(N) % 2
TABLE = {"x": RANDOM.normal(size=N).round(3).tolist(), "c": ["p", "q", "r"] * 16, "y": ["no", "yes"] * 24}
WORDS = [" ".join(RANDOM.choice(["good", "bad", "fine", "film", "plot", "end"], 7)) for _ in range(N)]
LENGTHS = RANDOM.integers(3, 9, N)
SERIES = [" ".join(map(str, RANDOM.normal(size=length).round(2))) for length in LENGTHS]


def images(place: Path, **_: Any) -> dict[str, Any]:
    np.savez(place / "d.npz", x=PIXELS, y=CLASSES)
    return {"source": place / "d.npz", "rows": PIXELS}


def table(columns: dict[str, Any]) -> Any:
    def made(place: Path) -> dict[str, Any]:
        rows = {name: values for name, values in columns.items() if name != "y"}
        return {"source": columns, "target": "y", "rows": rows}

    return made


FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tabm": (table(TABLE), {}),
    "mlp": (table(TABLE), {"network": "mlp"}),
    "convnet": (images, {"network": "convnet"}),
    "resnet": (images, {"network": "resnet"}),
    "inception": (table({"s": SERIES, "y": TABLE["y"]}), {"kind": {"s": "series"}, "network": "inception"}),
    "recurrent": (table({"s": SERIES, "y": TABLE["y"]}), {"kind": {"s": "series"}, "network": "recurrent"}),
    "mixed": (table({**TABLE, "t": WORDS}), {"kind": {"t": "text"}}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sixteen_threads_get_the_answers_of_one(family: str, tmp_path: Path) -> None:
    make, more = FAMILIES[family]
    given = make(tmp_path)
    rows = given.pop("rows")
    result = luthier.train(**given, **more, epochs=1, seed=0, check=False, run=tmp_path / "run", verbose=False)
    assert result.model.blueprint.family == family  # type: ignore[union-attr]
    result.module.train()  # as a caller may have left it
    for model in (result.model, luthier.load(tmp_path / "run")):
        before = {name: value.clone() for name, value in model.module.state_dict().items()}
        expected = model.predict_proba(rows)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _, model=model: model.predict_proba(rows), range(32)))
        for answer in answers:
            np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-6)
        assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def _answers(path: str, rows: Any, found: Any) -> None:
    found.put(luthier.load(path).predict_proba(rows))


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_processes_of_torch_get_the_answers_of_one(way: str, tmp_path: Path) -> None:
    result = luthier.train(TABLE, target="y", epochs=1, seed=0, check=False, verbose=False)
    result.save(tmp_path / "model.safetensors")
    rows = {name: values for name, values in TABLE.items() if name != "y"}
    context: Any = torch.multiprocessing.get_context(way)
    found = context.Queue()
    asked = [
        context.Process(target=_answers, args=(str(tmp_path / "model.safetensors"), rows, found)) for _ in range(2)
    ]
    for process in asked:
        process.start()
    answers = [found.get(timeout=120) for _ in asked]
    for process in asked:
        process.join()
    for answer in answers:
        assert np.array_equal(answer, result.predict_proba(rows))
