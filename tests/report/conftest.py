"""Runs of small data, trained as briefly as can be, and what is in a page."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import luthier

EVIL = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a\x1b[2Jb", "\u202eevil", "שלום עולם", "x" * 10_000,
    "</script><b>", "&amp;", "'\"><svg/onload=alert(3)>",
)  # fmt: skip


def people(count: int = 400) -> pl.DataFrame:
    """Rows of two classes that follow from `age` and `city` alone; `noise` says nothing."""
    rng = np.random.default_rng(3)
    age, noise = rng.normal(40, 12, count), rng.normal(size=count)
    city = rng.choice(["Ayr", "Bonn", "Cork"], count, p=[0.5, 0.3, 0.2])
    score = (age - 40) / 8 + (city == "Cork") * 2 + rng.normal(size=count)
    days = np.datetime64("2023-01-01") + rng.integers(0, 700, count).astype("timedelta64[D]")
    return pl.DataFrame(
        {
            "age": age.round(3), "city": city, "noise": noise, "left": np.where(score > 0, "yes", "no"),
            "score": score, "seen": days.astype("datetime64[ms]"),
        }
    ).with_columns(pl.col("seen").cast(pl.Date))  # fmt: skip


@dataclass
class Page(HTMLParser):
    """What stands in a page: its elements with their attributes, its words, its numbers and its JSON."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        self._is_number = tag == "td" and ("class", "n") in attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.document = json.loads(data)
        elif self._open and self._open[-1] != "style":
            self.words.append(data)
            if self._is_number:
                self.cells.append(data)

    @property
    def run(self) -> dict[str, Any]:
        """The JSON of the first run."""
        found: dict[str, Any] = self.document["runs"][0]
        return found


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `people.csv` and runs over it: of two classes, of numbers, of folds, refit, of another seed."""
    place = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        people().write_csv("people.csv")
        named: dict[str, Any] = {"epochs": 3, "kind": {"score": "ignored"}}
        given: dict[str, dict[str, Any]] = {
            "two": {}, "other": {"seed": 5}, "folds": {"folds": 2}, "refit": {"refit": True},
        }  # fmt: skip
        for name, more in given.items():
            luthier.train("people.csv", target="left", run=f"runs/{name}", **named, **more)
        luthier.train("people.csv", target="score", run="runs/numbers", epochs=3, kind={"left": "ignored"})
    return place
