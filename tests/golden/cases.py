"""Small data sets of a dozen shapes, each with the call that designs a network for it."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

Case = tuple[Any, dict[str, Any]]  # the source, and further arguments of `design`
CASES: dict[str, Callable[[Path], Case]] = {}
WORDS = "the film was on a day in may with its old friends and some of their dogs near this long river".split()  # noqa: SIM905


def case(name: str) -> Callable[[Callable[[Path], Case]], Callable[[Path], Case]]:
    def keep(make: Callable[[Path], Case]) -> Callable[[Path], Case]:
        CASES[name] = make
        return make

    return keep


def csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows).write_csv(folder / "rows.csv")
    return folder / "rows.csv"


def parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pl.DataFrame(rows).write_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def numbers(lot: random.Random, count: int, prefix: str = "x") -> dict[str, float]:
    return {f"{prefix}{i}": round(lot.gauss(0, 1 + i), 3) for i in range(count)}


@case("numbers_to_three_classes")
def _(folder: Path) -> Case:
    lot, rows = random.Random(0), []
    for _ in range(400):
        row = numbers(lot, 4)
        kind = ("low", "middle", "high")[(row["x0"] > -0.4) + (row["x0"] > 0.4)]
        rows.append({**row, "kind": kind})
    return csv(folder, rows), {"target": "kind"}


@case("numbers_to_a_number_in_many_rows")
def _(folder: Path) -> Case:
    lot, rows = random.Random(1), []
    for _ in range(2500):
        row = numbers(lot, 6)
        rows.append({**row, "y": round(row["x0"] + 0.2 * row["x1"] + lot.gauss(0, 0.1), 3)})
    return parquet(folder, rows), {"target": "y"}


@case("perceptron_asked_for_in_many_rows")
def _(folder: Path) -> Case:
    lot, rows = random.Random(13), []
    for _ in range(7500):
        row = numbers(lot, 3)
        rows.append({**row, "site": lot.choice("abcdefgh"), "kind": "in" if abs(row["x0"]) < 0.7 else "out"})
    return parquet(folder, rows), {"target": "kind", "network": "mlp", "effort": "thorough"}


@case("numbers_without_validation")
def _(folder: Path) -> Case:
    lot, rows = random.Random(14), []
    for _ in range(200):
        row = numbers(lot, 3)
        rows.append({**row, "y": round(row["x0"] ** 2, 3)})
    return csv(folder, rows), {"target": "y", "valid_fraction": 0.0, "effort": "quick"}


@case("many_categories")
def _(folder: Path) -> Case:
    lot, rows = random.Random(2), []
    for _ in range(1200):
        city, shop, colour = lot.randrange(60), lot.randrange(12), lot.choice(["red", "green", "blue"])
        bought = "yes" if (city % 2 == 0) != (colour == "red") else "no"
        rows.append({"city": f"c{city}", "shop": f"s{shop}", "colour": colour, "bought": bought})
    return csv(folder, rows), {"target": "bought"}


@case("numbers_categories_dates_and_gaps")
def _(folder: Path) -> Case:
    lot, rows = random.Random(3), []
    for i in range(600):
        size = round(lot.lognormvariate(3, 1), 2)
        rows.append({
            "id": 10_000 + i, "day": f"{2019 + i // 300}-{1 + i % 12:02d}-{1 + i % 28:02d}",
            "size": None if lot.random() < 0.1 else size, "rooms": lot.randrange(1, 6),
            "is_new": lot.choice([True, False]), "quarter": lot.choice(["north", "south", "east", "west"]),
            "empty": None, "price": round(1000 * size ** 0.8 * lot.lognormvariate(0, 0.2), 2),
        })  # fmt: skip
    return csv(folder, rows), {"target": "price"}


@case("wide_with_few_rows")
def _(folder: Path) -> Case:
    lot, rows = random.Random(4), []
    for i in range(60):
        rows.append({**numbers(lot, 200, "gene"), "ill": "yes" if i % 2 else "no"})
    return csv(folder, rows), {"target": "ill"}


@case("rare_yes_among_no")
def _(folder: Path) -> Case:
    lot, rows = random.Random(5), []
    for i in range(900):
        row = numbers(lot, 3)
        rows.append({**row, "plan": lot.choice(["a", "b"]), "fraud": int(i % 30 == 0)})
    return csv(folder, rows), {"target": "fraud"}


@case("several_numbers_to_predict")
def _(folder: Path) -> Case:
    lot, rows = random.Random(6), []
    for _ in range(500):
        row = numbers(lot, 5)
        rows.append({**row, "width": round(row["x0"] + row["x1"], 3), "height": round(row["x2"] - row["x3"], 3)})
    return csv(folder, rows), {"target": ["width", "height"]}


@case("several_labels_in_a_cell")
def _(folder: Path) -> Case:
    lot, rows = random.Random(7), []
    for _ in range(500):
        row = numbers(lot, 4)
        labels = [name for name, x in zip(("sea", "snow", "sun"), row.values(), strict=False) if x > 0]
        rows.append({**row, "seen": "|".join(labels) or "none"})
    return csv(folder, rows), {"target": "seen", "labels": "|"}


def sentence(lot: random.Random, extra: str, length: int = 12) -> str:
    words = [*lot.choices(WORDS, k=length), extra]
    lot.shuffle(words)
    return " ".join(words)


@case("one_text")
def _(folder: Path) -> Case:
    lot, rows = random.Random(8), []
    for _ in range(700):
        is_good = lot.random() < 0.5
        rows.append({
            "review": sentence(lot, lot.choice(["lovely", "fine"] if is_good else ["awful", "grim"])),
            "liked": "yes" if is_good else "no",
        })  # fmt: skip
    return csv(folder, rows), {"target": "liked"}


@case("two_texts_beside_numbers")
def _(folder: Path) -> Case:
    lot, rows = random.Random(9), []
    for _ in range(400):
        score = lot.randrange(3)
        rows.append({
            "title": sentence(lot, ("dull", "plain", "great")[score], 8),
            "body": sentence(lot, ("cold", "mild", "warm")[score], 20),
            "length": lot.randrange(100), "stars": ("one", "two", "three")[score],
        })  # fmt: skip
    return csv(folder, rows), {"target": "stars"}


def pictures(folder: Path, side: int, counts: dict[str, int], mode: str) -> Case:
    lot = random.Random(side)
    for name, count in counts.items():
        (folder / "images" / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new(mode, (side, side), lot.randrange(256) if mode == "L" else "navy")
            image.putpixel((lot.randrange(side), lot.randrange(side)), 255 if mode == "L" else (255, i % 256, 0))
            image.save(folder / "images" / name / f"{i}.png")
    return folder / "images", {}


@case("small_grey_images")
def _(folder: Path) -> Case:
    return pictures(folder, 28, {"one": 40, "two": 40, "three": 40}, "L")


@case("small_grey_images_quickly")
def _(folder: Path) -> Case:
    return pictures(folder, 28, {"one": 40, "two": 40}, "L")[0], {"effort": "quick"}


@case("large_colour_images")
def _(folder: Path) -> Case:
    return pictures(folder, 96, {"cat": 25, "dog": 25}, "RGB")


@case("images_beside_numbers")
def _(folder: Path) -> Case:
    lot, rows = random.Random(10), []
    pictures(folder, 24, {"all": 120}, "L")
    for i in range(120):
        rows.append({"file": f"images/all/{i}.png", "weight": round(lot.gauss(3, 1), 3), "kind": "ab"[i % 2]})
    return csv(folder, rows), {"target": "kind"}


def wave(lot: random.Random, speed: float, length: int) -> list[float]:
    start = lot.random() * 6
    return [round(math.sin(start + step * speed), 3) for step in range(length)]


def series(count: int) -> list[dict[str, Any]]:
    lot, rows = random.Random(count), []
    for _ in range(count):
        kind = lot.choice(["slow", "fast"])
        rows.append({"x": wave(lot, 0.3 if kind == "slow" else 1.1, lot.randrange(20, 40)), "kind": kind})
    return rows


@case("few_series_in_lists")
def _(folder: Path) -> Case:
    return parquet(folder, series(120)), {"target": "kind"}


@case("many_series_in_lists")
def _(folder: Path) -> Case:
    return parquet(folder, series(900)), {"target": "kind"}


@case("series_read_by_a_recurrent_network")
def _(folder: Path) -> Case:
    return parquet(folder, series(200)), {"target": "kind", "network": "recurrent", "effort": "quick"}


@case("series_of_two_channels_step_by_step")
def _(folder: Path) -> Case:
    lot, rows = random.Random(11), []
    for i in range(150):
        level = round(lot.random(), 3)
        both = zip(wave(lot, level, 24), wave(lot, 0.5, 24), strict=True)
        rows += [{"id": f"s{i}", "t": t, "left": a, "right": b, "level": level} for t, (a, b) in enumerate(both)]
    return csv(folder, rows), {"target": "level", "series": "id", "order": "t"}


@case("lists_beside_categories")
def _(folder: Path) -> Case:
    lot = random.Random(12)
    return parquet(folder, [{**row, "site": lot.choice("abc")} for row in series(300)]), {"target": "kind"}
