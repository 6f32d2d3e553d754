"""Exports of each family and task: do they answer alike, how large are they, and how fast.

    python -m benchmarks.export [--only NAME ...]

Trained for two epochs on real data, one thread. A row is answered by the network alone (encoded inputs), by
`Model.predict` (raw rows), and by ONNX Runtime (raw inputs of the graph: encoding, network, answers). Milliseconds are
the median of calls that take about a second together.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import torch
from sklearn import datasets

import luthier
from benchmarks.data import adult, diamonds, emoji, series, snippets
from luthier.plain.reader.reader import inputs_of
from luthier.serving.exporting.export import Export
from luthier.serving.inputs import pieces

QUICK: dict[str, Any] = {"epochs": 2, "seed": 0, "threads": 1, "verbose": False, "check": False}
ROWS = 4000


def lists(name: str) -> tuple[pl.DataFrame, str]:
    """Return a set of series as lists in cells."""
    x, y = series(name, "TRAIN")
    columns = {f"c{i}": [row[~np.isnan(row)].tolist() for row in x[:, i]] for i in range(x.shape[1])}
    return pl.DataFrame({**columns, "y": y}), "y"


def reviews() -> tuple[pl.DataFrame, str]:
    """Return film reviews and whether they are kind."""
    frame = snippets("movieReviewSnippets").head(ROWS)
    return frame, frame.columns[-1]


def mixed() -> tuple[pl.DataFrame, str]:
    """Return texts, a series, numbers and a category in one row."""
    frame, target = reviews()
    x, _ = lists("GunPoint")
    count = min(len(frame), 400)
    steps = [x["c0"][i % len(x)].to_list() for i in range(count)]
    some = frame.head(count).with_columns(steps=pl.Series(steps), length=pl.col(frame.columns[0]).str.len_chars())
    return some.with_columns(kind=pl.Series(["a", "b"] * (count // 2 + 1))[:count]), target


def pictures() -> tuple[pl.DataFrame, str]:
    """Return pictures beside a number, and their category."""
    files = sorted(path for path in emoji().rglob("*.png"))[::3]
    rows = [{"picture": str(path), "bytes": path.stat().st_size, "y": path.parent.name} for path in files]
    return pl.DataFrame(rows), "y"


def wine() -> tuple[pl.DataFrame, str]:
    """Return wines of three cultivars."""
    found = datasets.load_wine(as_frame=True)
    return pl.DataFrame(found.frame.to_dict("list")), "target"


def linnerud() -> tuple[pl.DataFrame, list[str]]:
    """Return three numbers to be told from three."""
    found = datasets.load_linnerud(as_frame=True)
    return pl.DataFrame(found.frame.to_dict("list")), list(found.target_names)


def labels() -> tuple[pl.DataFrame, list[str]]:
    """Return Adult with two labels."""
    frame = adult().head(ROWS)
    names = ("loan", "gender")
    flags = [(frame[name] == sorted(frame[name].unique())[0]).cast(pl.Int8).alias(f"is {name}") for name in names]
    return frame.drop(names).with_columns(flags), [f"is {name}" for name in names]


CASES: dict[str, tuple[Callable[[], tuple[Any, Any]], dict[str, Any]]] = {
    "tabm, binary (Adult)": (lambda: (adult().head(ROWS), "loan"), {"calibrate": True, "threshold": "f1"}),
    "tabm, 3 folds (Adult)": (lambda: (adult().head(ROWS), "loan"), {"folds": 3}),
    "mlp, binary (Adult)": (lambda: (adult().head(ROWS), "loan"), {"network": "mlp"}),
    "tabm, multiclass (wine)": (wine, {"task": "multiclass"}),
    "tabm, labels (Adult)": (labels, {}),
    "tabm, regression (diamonds)": (lambda: (diamonds().head(ROWS), "price"), {"interval": 0.9}),
    "tabm, 3 numbers (linnerud)": (linnerud, {}),
    "rocket (GunPoint)": (lambda: lists("GunPoint"), {"network": "rocket"}),
    "inception (JapaneseVowels)": (lambda: lists("JapaneseVowels"), {"network": "inception"}),
    "recurrent gru (JapaneseVowels)": (lambda: lists("JapaneseVowels"), {"network": "recurrent"}),
    "mixed, text (film reviews)": (reviews, {}),
    "mixed, text by an lstm": (reviews, {"reader": "lstm"}),
    "mixed, text, series, numbers": (mixed, {}),
    "mixed, pictures and a number": (pictures, {}),
    "convnet (emoji)": (lambda: (emoji(), None), {"network": "convnet"}),
    "resnet (emoji)": (lambda: (emoji(), None), {"network": "resnet"}),
}


def milliseconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call."""
    call()
    times: list[float] = []
    while sum(times) < 1 and len(times) < 200:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def rows_of(source: Any, target: Any, count: int) -> Any:
    """Return rows to ask about: a frame, or files of images."""
    if isinstance(source, Path):
        files = sorted(path for path in source.rglob("*") if path.is_file())
        return [files[i % len(files)] for i in range(count)]
    frame = source.drop([target] if isinstance(target, str) else target)
    return frame[[i % frame.height for i in range(count)]]


def measure(name: str, place: Path) -> str:
    """Return a line of the table."""
    make, given = CASES[name]
    source, target = make()
    more = {} if target is None else {"target": target}
    model = luthier.train(source, **more, **QUICK, **given).model
    assert model is not None
    assert model.schema is not None
    own = [] if isinstance(source, Path) else rows_of(source, target, 200).to_dicts()
    exports = {suffix: model.export(place / f"model.{suffix}", rows=own) for suffix in ("onnx", "pt2")}
    times = [time_of(model, exports["onnx"], rows_of(source, target, count)) for count in (1, 1000)]
    differences = " | ".join(f"{made.greatest:.1e} | {made.size / 1e3:,.0f}" for made in exports.values())
    return f"| {name} | {differences} | {' | '.join(f'{ms:.3g}' for found in times for ms in found)} |"


def time_of(model: luthier.Model, made: Export, rows: Any) -> tuple[float, float, float]:
    """Return milliseconds of the network, of Luthier and of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["luthier"])
    is_files = isinstance(rows, list)
    asked: Any = [str(path) for path in rows] if is_files else rows
    dicts = [{"image": str(path)} for path in rows] if is_files else rows.to_dicts()
    feeds = inputs_of(dicts, facts)
    schema = model.schema
    assert schema is not None
    if is_files:
        pixels = feeds["image"]
        asked = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if asked.shape[1:] != (schema.image.channels, schema.image.height, schema.image.width):  # type: ignore[union-attr]
            raise ValueError("the images have another size than the network takes")
    inputs = [torch.cat(parts) for parts in zip(*(piece.inputs for piece in pieces(asked, schema)), strict=True)]

    def network() -> None:
        with torch.inference_mode():
            model.module(*inputs)

    is_plain = len(dicts) == 1 and not is_files and schema.blocks == ("numbers", "categories")
    one = dicts[0] if is_plain else asked
    return (
        milliseconds(network),
        milliseconds(lambda: model.predict(one)),
        milliseconds(lambda: session.run(None, feeds)),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    torch.set_num_threads(1)
    print(
        "| | ONNX: difference | kB | pt2: difference | kB | network, 1 row | Luthier | ONNX Runtime | "
        "network, 1,000 rows | Luthier | ONNX Runtime |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in parser.parse_args().only:
        with tempfile.TemporaryDirectory() as place:
            print(measure(name, Path(place)), flush=True)


if __name__ == "__main__":
    main()
