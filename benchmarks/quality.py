"""Quality of the defaults: no option but the target, beside the best simple rival on the same rows.

    python -m benchmarks.quality [adult|diamonds|text|scripts|series|digits|emoji|fashion|pictures|kept-aside]
        [--splits 5] [--seeds 1] [--minutes 20]

Adult and diamonds: means over five fixed random splits, 80 % to train (of which Luthier takes its own validation
part) and 20 % to test. Rival: scikit-learn's HistGradientBoosting with its defaults, categories by ordinal code and
declared as such. Fashion-MNIST and series: the set's own split, one seed a row; series beside a published ResNet (1,500
epochs). Digits: 25 % to test, beside an SVC. Emoji: EfficientNet-Lite0, frozen but for its last layer, beside logistic
regression on the same network's features of the same rows, its C chosen on the validation rows. `pictures` are the sets
of hundreds of pictures that the defaults were chosen on, and `kept-aside` those that were looked at once.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.svm import SVC

import luthier
import luthier.pipeline.train
from benchmarks.data import (
    COMMAND,
    KEPT_ASIDE,
    PICTURES,
    SERIES,
    TEXTS,
    adult,
    captions,
    chinese_reviews,
    diamonds,
    emoji,
    fashion_mnist,
    lite0,
    pictures,
    series,
    snippets,
)  # fmt: skip
from luthier.training.progress import Progress

ALL = ["adult", "diamonds", "text", "scripts", "series", "digits", "emoji", "fashion"]


def split(frame: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    order = np.random.default_rng(seed).permutation(frame.height)
    cut = int(0.8 * frame.height)
    return frame[order[:cut]], frame[order[cut:]]


def rival(train: pl.DataFrame, test: pl.DataFrame, target: str, *, is_class: bool) -> float:
    """Accuracy, or RMSE, of HistGradientBoosting."""
    texts = [name for name in train.columns if train[name].dtype == pl.String and name != target]
    numbers = [name for name in train.columns if name not in (*texts, target)]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(train[texts].to_numpy())
    inputs = [
        np.hstack([encoder.transform(part[texts].to_numpy()), part[numbers].to_numpy().astype(float)])
        for part in (train, test)
    ]
    cls = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
    model = cls(categorical_features=list(range(len(texts))), random_state=0)
    model.fit(inputs[0], train[target].to_numpy())
    predicted, true = model.predict(inputs[1]), test[target].to_numpy()
    return float((predicted == true).mean() if is_class else np.sqrt(((predicted - true) ** 2).mean()))


def table(name: str, make: Callable[[], pl.DataFrame], target: str, *, is_class: bool, splits: int) -> None:
    ours, theirs, seconds = [], [], []
    for seed in range(splits):
        train, test = split(make(), seed)
        theirs.append(rival(train, test, target, is_class=is_class))
        with tempfile.TemporaryDirectory() as place:
            train.write_csv(f"{place}/train.csv")
            test.write_csv(f"{place}/test.csv")
            start = time.perf_counter()
            result = luthier.train(
                f"{place}/train.csv", target=target, test=f"{place}/test.csv", run=f"{place}/run",
                callbacks=[Progress(quiet=True)],
            )  # fmt: skip
            seconds.append(time.perf_counter() - start)
        ours.append(result.test["accuracy" if is_class else "rmse"])
        print(f"{name} split {seed}: luthier {ours[-1]:.4f}, HistGB {theirs[-1]:.4f}, {seconds[-1]:.0f} s", flush=True)
    mean, other = np.mean(ours), np.mean(theirs)
    compared = f"difference {mean - other:+.4f}" if is_class else f"ratio {mean / other:.4f}"
    print(f"{name}: luthier {mean:.4f}, HistGB {other:.4f}, {compared}, {np.mean(seconds):.0f} s a run", flush=True)


def text_rivals() -> dict[str, Any]:
    """TF-IDF and logistic regression: of words; and of words, pairs of words and two to five characters."""
    pairs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    strong = LogisticRegression(C=4, max_iter=1000, tol=0.001)  # in training parts, 4 was better than .3 and 1
    return {
        "words": make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)),
        "words 1-2, characters 2-5": make_pipeline(make_union(pairs, pieces), strong),
    }


def texts(sets: Mapping[str, Callable[[], pl.DataFrame]], splits: int) -> None:
    """Print accuracies over sets of short texts, 80/20, beside TF-IDF and logistic regression on all rows."""
    for name, make in sets.items():
        rivals = text_rivals()
        ours: list[float] = []
        seconds: list[float] = []
        theirs: dict[str, list[float]] = {rival: [] for rival in rivals}
        for seed in range(splits):
            train, test = split(make(), seed)
            for rival, model in rivals.items():
                model.fit(train["text"].to_list(), train["mood"].to_list())
                theirs[rival].append(model.score(test["text"].to_list(), test["mood"].to_list()))
            with tempfile.TemporaryDirectory() as place:
                train.write_csv(f"{place}/train.csv")
                test.write_csv(f"{place}/test.csv")
                start = time.perf_counter()
                result = luthier.train(
                    f"{place}/train.csv", target="mood", test=f"{place}/test.csv", run=f"{place}/run",
                    callbacks=[Progress(quiet=True)],
                )  # fmt: skip
                seconds.append(time.perf_counter() - start)
            ours.append(result.test["accuracy"])
        others = ", ".join(f"{rival} {np.mean(found):.4f}" for rival, found in theirs.items())
        print(f"{name}: luthier {np.mean(ours):.4f}; TF-IDF and logistic regression: {others};"
              f" {np.mean(seconds):.0f} s a run, {splits} splits", flush=True)  # fmt: skip


def fashion(seeds: int, minutes: float | None) -> None:
    """Print accuracies on Fashion-MNIST; with `minutes`, of the longest run that ends in them, and the time to .94."""
    with tempfile.TemporaryDirectory() as place:
        for part, file in (("train", "train"), ("t10k", "test")):
            x, y = fashion_mnist(part)
            np.savez(Path(place) / f"{file}.npz", x=x, y=y)
        more = [] if minutes is None else ["--epochs", str(epochs_in(place, minutes))]
        accuracies = []
        for seed in range(seeds):
            start = time.perf_counter()
            command = [COMMAND, "train", "train.npz", "--test", "test.npz", "--run", f"run{seed}", "--json", *more]
            if seed:
                command += ["--seed", str(seed)]
            done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
            accuracies.append(json.loads(done.stdout)["test"]["accuracy"])
            took = (time.perf_counter() - start) / 60
            print(f"fashion seed {seed}: {accuracies[-1]:.4f} in {took:.1f} minutes {' '.join(more)}", flush=True)
            rows = [json.loads(line) for line in (Path(place) / f"run{seed}/record.jsonl").read_text().splitlines()]
            print(f"fashion seed {seed}: {time_to(0.94, rows)}", flush=True)
        print(f"fashion: mean of {seeds} seeds {np.mean(accuracies):.4f}", flush=True)


def epochs_in(place: str, minutes: float) -> int:
    """Return how many epochs fit: one is run, and a tenth of the time is left for reading and the test."""
    start = time.perf_counter()
    command = [COMMAND, "train", "train.npz", "--test", "test.npz", "--run", "one", "--epochs", "1", "--json"]
    subprocess.run(command, cwd=place, check=True, capture_output=True)
    return max(1, int(0.9 * 60 * minutes / (time.perf_counter() - start)))


def time_to(accuracy: float, rows: Sequence[Mapping[str, Any]]) -> str:
    """Say when an epoch of a record first had that accuracy on the validation rows."""
    epochs = [row for row in rows if row["event"] == "epoch"]
    for i, row in enumerate(epochs):
        if row["valid_accuracy"] >= accuracy:
            took = sum(one["seconds"] for one in epochs[: i + 1]) / 60
            return f"{accuracy} on the validation rows after {took:.1f} minutes, in epoch {i + 1} of {len(epochs)}"
    best = max(row["valid_accuracy"] for row in epochs)
    return f"{accuracy} was not reached on the validation rows in {len(epochs)} epochs: {best:.4f} at best"


def series_sets(seeds: int) -> None:
    """Print accuracies on eight sets of the UCR and UEA archives."""
    means, minutes = [], 0.0
    for name, published in SERIES.items():
        found = []
        with tempfile.TemporaryDirectory() as place:
            for part in ("TRAIN", "TEST"):
                x, y = series(name, part)
                np.savez(f"{place}/{part}.npz", x=x, y=y)
            start = time.perf_counter()
            for seed in range(seeds):
                result = luthier.train(
                    f"{place}/TRAIN.npz", test=f"{place}/TEST.npz", run=f"{place}/{seed}", seed=seed,
                    callbacks=[Progress(quiet=True)],
                )  # fmt: skip
                found.append(result.test["accuracy"])
        took = (time.perf_counter() - start) / 60 / seeds
        minutes += took
        means.append(np.mean(found))
        each = ", ".join(f"{value:.3f}" for value in found)
        print(f"{name}: luthier {means[-1]:.3f} ({each}), ResNet {published:.3f}, "
              f"{took:.1f} minutes a run", flush=True)  # fmt: skip
    mean, other = np.mean(means), np.mean(list(SERIES.values()))
    print(f"series: luthier {mean:.3f}, ResNet {other:.3f}, difference {mean - other:+.3f}, {minutes:.1f} minutes for "
          f"the {len(means)} sets, {seeds} seeds", flush=True)  # fmt: skip


def digits(seeds: int) -> None:
    """Print accuracies on scikit-learn's digits, 8 x 8, of which a quarter is for the test."""
    x, y = load_digits(return_X_y=True)
    ours, theirs, seconds = [], [], []
    for seed in range(seeds):
        rows, test_rows = train_test_split(np.arange(len(y)), test_size=0.25, stratify=y, random_state=seed)
        theirs.append(SVC().fit(x[rows], y[rows]).score(x[test_rows], y[test_rows]))
        with tempfile.TemporaryDirectory() as place:
            for name, part in (("train", rows), ("test", test_rows)):
                np.savez(f"{place}/{name}.npz", x=x[part].reshape(-1, 8, 8), y=y[part])
            start = time.perf_counter()
            result = luthier.train(
                f"{place}/train.npz", test=f"{place}/test.npz", run=f"{place}/run", callbacks=[Progress(quiet=True)]
            )
            seconds.append(time.perf_counter() - start)
        ours.append(result.test["accuracy"])
    mean, other = np.mean(ours), np.mean(theirs)
    print(f"digits: luthier {mean:.4f}, SVC {other:.4f}, difference {mean - other:+.4f}, "
          f"{np.mean(seconds):.0f} s a run, {seeds} splits", flush=True)  # fmt: skip


def pretrained(name: str, source: Path, seeds: int, **given: Any) -> None:
    """Print accuracies of a frozen EfficientNet-Lite0, beside logistic regression on its features of the same rows."""
    settings: dict[str, Any] = {
        "image_means": (127 / 255,), "image_stds": (128 / 255,), "freeze": ("trunk",), "weights": str(lite0()),
        "network": f"{Path(__file__).parent / 'lite0.py'}:Net", **given,
    }  # fmt: skip
    plan = luthier.design(source, **settings)
    module: Any = luthier.pipeline.train.make_module(plan).eval()
    features: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    for part, found in plan.prepared.parts.items():
        rows: Any = found.source
        with torch.no_grad():
            batches = rows.batches(torch.arange(len(rows)).split(64), 0, 0)
            maps = [module.extract_features(batch.inputs[0]).mean(dim=(2, 3)) for batch in batches]
        features[part], targets[part] = torch.cat(maps).numpy(), rows.targets.numpy()
    scaler = StandardScaler().fit(features["train"])
    models = [
        LogisticRegression(max_iter=2000, C=c).fit(scaler.transform(features["train"]), targets["train"])
        for c in (0.1, 0.03, 0.01, 0.003, 0.001)
    ]
    valid = scaler.transform(features["valid"])
    best = min(models, key=lambda model: log_loss(targets["valid"], model.predict_proba(valid), labels=model.classes_))
    theirs = best.score(scaler.transform(features["test"]), targets["test"])
    ours, losses, seconds = [], [], []
    for seed in range(seeds):
        start = time.perf_counter()
        result = luthier.train(source, seed=seed, verbose=False, **settings)
        seconds.append(time.perf_counter() - start)
        ours.append(result.test["accuracy"])
        losses.append(result.test["log_loss"])
    print(f"{name}: luthier, frozen EfficientNet-Lite0 {np.mean(ours):.4f} (log loss {np.mean(losses):.4f}), its "
          f"features and logistic regression {theirs:.4f}, difference {np.mean(ours) - theirs:+.4f}, "
          f"{np.mean(seconds):.0f} s a run, {seeds} seeds", flush=True)  # fmt: skip


def few_pictures(names: Sequence[str], seeds: int) -> None:
    """Print accuracies on hundreds of pictures: from nothing, and by a frozen EfficientNet-Lite0 where in colour."""
    for name in names:
        folder = pictures(name)
        source, test = folder / "train", str(folder / "test")
        ours, losses = [], []
        start = time.perf_counter()
        for seed in range(seeds):
            result = luthier.train(source, test=test, seed=seed, verbose=False)
            ours.append(result.test["accuracy"])
            losses.append(result.test["log_loss"])
        took = (time.perf_counter() - start) / seeds
        print(f"{name}: from nothing {np.mean(ours):.4f} (log loss {np.mean(losses):.4f}), {took:.0f} s a run, "
              f"{seeds} seeds", flush=True)  # fmt: skip
        schema = result.model.schema
        if schema is not None and schema.image is not None and schema.image.channels == 3:
            pretrained(name, source, seeds, test=test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", default=["adult", "diamonds", "text", "series", "digits", "emoji", "fashion"]
    )
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="of Fashion-MNIST: as many epochs as end in them")
    arguments = parser.parse_args()
    if "adult" in arguments.what:
        table("adult", adult, "loan", is_class=True, splits=arguments.splits)
    if "diamonds" in arguments.what:
        table("diamonds", diamonds, "price", is_class=False, splits=arguments.splits)
    if "text" in arguments.what:
        texts({name: partial(snippets, name) for name in TEXTS}, arguments.splits)
    if "scripts" in arguments.what:
        texts({"Chinese reviews": chinese_reviews, "captions in thirty languages": captions}, arguments.splits)
    if "series" in arguments.what:
        series_sets(arguments.seeds)
    if "digits" in arguments.what:
        digits(arguments.splits)
    if "emoji" in arguments.what:
        pretrained("emoji", emoji(), arguments.seeds)
    for what, names in (("pictures", PICTURES), ("kept-aside", KEPT_ASIDE)):
        if what in arguments.what:
            few_pictures(names, arguments.seeds)
    if "fashion" in arguments.what:
        fashion(arguments.seeds, arguments.minutes)


if __name__ == "__main__":
    main()
