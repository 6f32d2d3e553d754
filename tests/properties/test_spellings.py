"""A table is the same table however its numbers, dates, flags and gaps are written, and in whatever it is kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier

N = 120
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
GERMAN = [*("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September"),
          *("Oktober", "November", "Dezember")]  # fmt: skip


def grouped(value: float, thousands: str, decimal: str) -> str:
    return f"{value:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)


NUMBERS: dict[str, Callable[[float], str]] = {
    "plain": lambda v: f"{v:.2f}",
    "commas": lambda v: grouped(v, ",", "."),
    "German": lambda v: grouped(v, ".", ","),
    "French": lambda v: grouped(v, "\u202f", ","),
    "Swiss": lambda v: grouped(v, "'", "."),
    "dollars": lambda v: ("-$" if v < 0 else "$") + grouped(abs(v), ",", "."),
    "euros after": lambda v: grouped(v, ".", ",") + " €",
    "accounting": lambda v: f"({abs(v):,.2f})" if v < 0 else f"{v:,.2f}",
    "minus of Unicode": lambda v: f"{v:.2f}".replace("-", "\u2212"),
    "trailing minus": lambda v: f"{abs(v):.2f}" + "-" * (v < 0),
    "unit": lambda v: f"{v:.2f} kg",
    "percent": lambda v: f"{v:.2f}%",
    "spaces around": lambda v: f"  {v:.2f} ",
}
DATES: dict[str, Callable[[date], str]] = {
    "ISO": lambda d: d.isoformat(),
    "German": lambda d: f"{d:%d.%m.%Y}",
    "American": lambda d: f"{d.month}/{d.day}/{d.year}",
    "British": lambda d: f"{d:%d/%m/%Y}",
    "dashes": lambda d: f"{d:%d-%m-%Y}",
    "named": lambda d: f"{d.day}-{MONTHS[d.month - 1]}-{d:%y}",
    "long": lambda d: f"{d:%A}, {MONTHS[d.month - 1]} {d.day}, {d.year}",
    "German words": lambda d: f"{d.day}. {GERMAN[d.month - 1]} {d.year}",
    "compact": lambda d: f"{d:%Y%m%d}",
    "with a time": lambda d: f"{d.isoformat()}T00:00:00Z",
    "twelve hours": lambda d: f"{d:%m/%d/%Y} 12:00 AM",
    "Japanese": lambda d: f"{d.year}年{d.month}月{d.day}日",
}
FLAGS = {"words": ("no", "yes"), "upper": ("FALSE", "TRUE"), "digits": ("0", "1"), "letters": ("N", "Y")}
GAPS = ["", "NA", "null", "\\N", "#N/A", "-", "n/a", "(null)"]


def made() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    amount = (rng.normal(0, 4000, N)).round(2)
    days = [date(2021, 1, 1) + timedelta(days=int(day)) for day in rng.integers(0, 900, N)]
    flag = rng.random(N) < 0.4
    y = np.where(amount + 2000 * flag > 500, "high", "low")
    return pd.DataFrame({"amount": amount, "day": days, "flag": flag, "city": rng.choice(["Köln", "Łódź"], N), "y": y})


def spelled(frame: pd.DataFrame, number: str, day: str, flag: str, gap: str) -> pd.DataFrame:
    gone = np.arange(N) % 11 == 3
    written = {
        "amount": [gap if g else NUMBERS[number](v) for v, g in zip(frame.amount, gone, strict=True)],
        "day": [DATES[day](d) for d in frame.day],
        "flag": [FLAGS[flag][int(f)] for f in frame.flag],
        "city": list(frame.city),
        "y": list(frame.y),
    }
    return pd.DataFrame(written, dtype=object)


def facts(schema: luthier.Schema) -> list[Any]:
    """Return what a network takes of the columns: not how they were written."""
    plain: dict[str, Any] = {"why": "", "doubt": "", "number_format": "", "date_format": "", "categories": ()}
    return [replace(column, **(plain if column.kind != "category" else {})) for column in schema.columns]


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(list(NUMBERS)), st.sampled_from(list(DATES)), st.sampled_from(list(FLAGS)), st.sampled_from(GAPS)
)
def test_one_table_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, number: str, day: str, flag: str, gap: str
) -> None:
    folder = tmp_path_factory.mktemp("spelled")
    frame = made()
    text = spelled(frame, number, day, flag, gap)
    typed = frame.assign(amount=frame.amount.where(np.arange(N) % 11 != 3), day=pd.to_datetime(frame.day))
    typed["flag"] = typed.flag if flag == "upper" else text.flag  # true is the word for a typed yes
    sources = write_all(folder, text)
    typed.to_parquet(folder / "typed.parquet", index=False)
    asked: dict[str, Any] = {"target": "y", "seed": 0}

    want = luthier.design(folder / "typed.parquet", **asked)
    for name, source in {**sources, "typed frame": typed}.items():
        found = luthier.design(source, **asked)
        assert facts(found.schema) == facts(want.schema), name
        for part, held in want.prepared.parts.items():
            assert held.rows.tolist() == found.prepared.parts[part].rows.tolist(), name

    model = luthier.train(sources["csv"], epochs=1, threads=1, check=False, **asked).model
    expected = model.predict_proba(typed)
    for name, source in sources.items():
        assert np.array_equal(model.predict_proba(source), expected), name
    rows = text.drop(columns="y").to_dict("records")
    lone = np.concatenate([model.predict_proba(row) for row in rows[:15]])
    assert np.allclose(lone, expected[:15], rtol=0, atol=1e-6)  # one row goes by products of its own order


def write_all(folder: Path, text: pd.DataFrame) -> dict[str, Any]:
    """Keep a table of text in files and objects of every kind."""
    text.to_csv(folder / "t.csv", index=False)
    text.to_csv(folder / "semicolons.csv", index=False, sep=";")
    pl.DataFrame(text.to_dict("list")).write_parquet(folder / "t.parquet")
    text.to_excel(folder / "t.xlsx", index=False)
    (folder / "t.json").write_text(json.dumps(text.to_dict("records")))
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in text.to_dict("records")))
    return {
        "csv": folder / "t.csv",
        "semicolons": folder / "semicolons.csv",
        "parquet": folder / "t.parquet",
        "excel": folder / "t.xlsx",
        "json": folder / "t.json",
        "json lines": folder / "t.jsonl",
        "pandas": text,
        "polars": pl.DataFrame(text.to_dict("list")),
        "rows": text.to_dict("records"),
        "columns": text.to_dict("list"),
    }
