"""Quality of the defaults: no option but the target, beside the best simple rival on the same rows.

    python -m benchmarks.quality [adult|diamonds|text|fashion] [--splits 5]

Adult and diamonds: means over five fixed random splits, 80 % to train (of which Luthier takes its own validation
part) and 20 % to test. Rival: scikit-learn's HistGradientBoosting with its defaults, categories by ordinal code and
declared as such. Fashion-MNIST: the set's own split, one seed a row.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OrdinalEncoder

import luthier
from benchmarks.data import TEXTS, adult, diamonds, fashion_mnist, snippets
from luthier.training.progress import Progress


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


def texts(splits: int) -> None:
    """Print accuracies over the four sets of short texts, 80/20, beside TF-IDF and logistic regression."""
    for name in TEXTS:
        ours, theirs, seconds = [], [], []
        for seed in range(splits):
            train, test = split(snippets(name), seed)
            vectorizer = TfidfVectorizer()
            model = LogisticRegression(max_iter=1000)
            model.fit(vectorizer.fit_transform(train["text"].to_list()), train["mood"].to_list())
            theirs.append(model.score(vectorizer.transform(test["text"].to_list()), test["mood"].to_list()))
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
        mean, other = np.mean(ours), np.mean(theirs)
        print(f"{name}: luthier {mean:.4f}, TF-IDF and logistic regression {other:.4f}, difference {mean - other:+.4f},"
              f" {np.mean(seconds):.0f} s a run, {splits} splits", flush=True)  # fmt: skip


def fashion(seeds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        for part, file in (("train", "train"), ("t10k", "test")):
            x, y = fashion_mnist(part)
            np.savez(Path(place) / f"{file}.npz", x=x, y=y)
        accuracies = []
        for seed in range(seeds):
            start = time.perf_counter()
            command = ["luthier", "train", "train.npz", "--test", "test.npz", "--run", f"run{seed}", "--json"]
            if seed:
                command += ["--seed", str(seed)]
            done = subprocess.run(command, cwd=place, check=True, capture_output=True, text=True)
            accuracies.append(json.loads(done.stdout)["test"]["accuracy"])
            took = (time.perf_counter() - start) / 60
            print(f"fashion seed {seed}: {accuracies[-1]:.4f} in {took:.1f} minutes", flush=True)
        print(f"fashion: mean of {seeds} seeds {np.mean(accuracies):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["adult", "diamonds", "text", "fashion"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    if "adult" in arguments.what:
        table("adult", adult, "loan", is_class=True, splits=arguments.splits)
    if "diamonds" in arguments.what:
        table("diamonds", diamonds, "price", is_class=False, splits=arguments.splits)
    if "text" in arguments.what:
        texts(arguments.splits)
    if "fashion" in arguments.what:
        fashion(arguments.seeds)


if __name__ == "__main__":
    main()
