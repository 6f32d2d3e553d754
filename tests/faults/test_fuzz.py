"""A fuzzer over bundles, run folders and tables: each case ends well or in a LuthierError, in 30 s and 2 GB.

`python -m tests.faults.test_fuzz PLACE FIRST COUNT` runs cases over the files that the fixture made, each in a forked
process under an audit hook that fails on foreign code, subprocesses and sockets. A case is its number alone.
"""

import copy
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import luthier
from luthier.core.machine import machine
from luthier.errors import LuthierError
from luthier.pipeline.check import check_source
from luthier.store.checkpoint import checkpoints
from luthier.store.files import unpack, write_tensors

ROOT = Path(__file__).parents[2]
SECONDS, BYTES = 120, 2 << 30
EVIL = [
    '"""+str(__import__("os").system("true"))+"""', "'); __import__('os').system('true'); ('", "x\nimport os", "{0.x}",
    "evil.py:Net", "../evil.py:Net", "timm:resnet18", "/dev/zero", "/etc/passwd", "a" * 5000, "\0", "\ud800", "[/x]",
]  # fmt: skip
NUMBERS: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    2**31,
    2**40,
    2**63,
    10**30,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def alike(value: Any, document: Any, draw: random.Random) -> Any:
    """Return another value of the same type: one from elsewhere in the document, a number near it, a part of a list."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice([value + 1, value - 1, value * 2, 0, 1, 2**20, 2**31 - 1])
    if isinstance(value, float):
        return draw.choice([value * 2, -value, 0.0, 1e-300, 1e300])
    if isinstance(value, list) and value:
        return draw.choice([value[:-1], value[::-1], value * 2, [*value, value[0]]])
    found = [other for other in walk(document) if type(other) is type(value) and other != value]
    return copy.deepcopy(draw.choice(found)) if found else None


def walk(value: Any) -> Iterator[Any]:
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(part)


def change(document: Any, draw: random.Random) -> Any:
    """Return a document with one to three places changed, in place where that can be."""
    for _ in range(draw.randint(1, 3)):
        spot, key = document, None
        holder: Any = None
        while isinstance(spot, dict | list) and spot and (holder is None or draw.random() < 0.8):
            holder = spot
            key = draw.choice(list(spot)) if isinstance(spot, dict) else draw.randrange(len(spot))
            spot = spot[key]
        if holder is None:
            return draw.choice(NUMBERS)
        if draw.random() < 0.6 and (other := alike(spot, document, draw)) is not None:
            holder[key] = other
            continue
        action = draw.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1 and isinstance(holder, list):
            holder.append(spot)
        elif action == 1:
            holder[draw.choice(EVIL)] = spot
        elif action == 2:
            holder[key] = draw.choice(EVIL)
        elif action == 3:
            holder[key] = nested(draw.choice([3, 100, 300]))
        elif action == 4 and isinstance(spot, int | float):
            holder[key] = spot * draw.choice([-1, 2, 1000, 10**9])
        else:
            holder[key] = draw.choice(NUMBERS)
    return document


def change_tensors(tensors: dict[str, torch.Tensor], draw: random.Random) -> None:
    name = draw.choice(sorted(tensors))
    value = tensors[name]
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: value * float("nan"), lambda: value[:1] if value.ndim else value[None],
        lambda: value.repeat(3, *[1] * value.ndim), lambda: value.long(), lambda: value.double(),
        lambda: torch.zeros(0), lambda: value.bool(), lambda: value.flatten(),
    ]  # fmt: skip
    tensors[name] = draw.choice(changes)()
    if draw.random() < 0.3:
        tensors.pop(draw.choice(sorted(tensors)))


def change_bytes(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 30])):
        start = draw.randrange(max(1, len(content)))
        piece = draw.choice([b"\0", b'"', b"\xff\xfe", b"\n", b",,", b"9" * 400, b"[" * 2000, draw.randbytes(8)])
        content[start : start + draw.choice([0, 1, 50])] = piece
    if draw.random() < 0.2:
        del content[draw.randrange(max(1, len(content))) :]
    path.write_bytes(content)


def change_packed(path: Path, key: str, draw: random.Random) -> None:
    """Change what a safetensors file of ours holds, and give it the SHA-256 that belongs to it then."""
    if draw.random() < 0.15:
        change_bytes(path, draw)
        return
    tensors, document = unpack(path, key)
    tensors = {name: value.clone() for name, value in tensors.items()}
    if draw.random() < 0.75:
        parts = ["blueprint", "schema", "state", "facts", "metrics"] if key == "luthier" else [None]
        part = draw.choice(parts) if draw.random() < 0.8 else None
        if part is None:
            document = change(document, draw)
        else:
            document[part] = change(document[part], draw)
    else:
        change_tensors(tensors, draw)
    try:
        write_tensors(path, tensors, document if isinstance(document, dict) else {"x": document}, key)
    except (UnicodeEncodeError, RecursionError, LuthierError):  # no such file can be
        change_bytes(path, draw)


def change_lines(path: Path, draw: random.Random) -> None:
    lines = path.read_text().splitlines()
    place = draw.randrange(len(lines))
    try:
        lines[place] = json.dumps(change(json.loads(lines[place]), draw))
    except (ValueError, RecursionError):
        name, equals, _ = lines[place].partition(" = ")
        lines[place] = f"{name}{equals}{json.dumps(draw.choice([*EVIL, *NUMBERS]))}"
    if draw.random() < 0.2:
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    path.write_text("\n".join(lines) + "\n")


def bundle(place: Path, draw: random.Random) -> None:
    name = draw.choice(["table", "image", "series", "text"])
    path = Path(f"{name}.safetensors")
    shutil.copy(place / path, path)
    change_packed(path, "luthier", draw)
    model = luthier.load(path)
    data: dict[str, Any] = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
    model.predict(data.get(name, place / f"{name}.csv"))
    list(model.stream(data.get(name, place / f"{name}.csv")))
    luthier.summary(model).svg()


def run_folder(place: Path, draw: random.Random) -> None:
    shutil.copytree(place / "run", "run")
    shutil.copy(place / "table.csv", "table.csv")  # which the run file names
    Path("evil.py").write_text("open('was-run', 'w')\n")
    run = Path("run")
    what = draw.choice(["run.toml", "record.jsonl", "split.safetensors", "checkpoint", "model.safetensors"])
    if what == "checkpoint":
        for path in checkpoints(run / "checkpoints"):
            change_packed(path, "luthier-checkpoint", draw)
    elif what.endswith("safetensors"):
        change_packed(run / what, "luthier" if what.startswith("model") else "luthier-split", draw)
    elif draw.random() < 0.8:
        change_lines(run / what, draw)
    else:
        change_bytes(run / what, draw)
    calls: list[Callable[[], Any]] = [
        lambda: luthier.resume(run, epochs=3), lambda: luthier.replay(run), lambda: luthier.eject(run, "out"),
        lambda: check_source(run), lambda: luthier.load(run).predict(place / "table.csv"),
    ]  # fmt: skip
    draw.choice(calls)()


def table(place: Path, draw: random.Random) -> None:
    name = draw.choice(["table.csv", "table.parquet", "series.csv", "text.csv"])
    shutil.copy(place / name, name)
    if draw.random() < 0.6 or name.endswith("parquet"):
        change_bytes(Path(name), draw)
    else:
        change_lines(Path(name), draw)
    target = {"table": "species", "series": "y", "text": "y"}[name.partition(".")[0]]
    if draw.random() < 0.5:
        luthier.design(name, target=target)
    else:
        luthier.load(place / f"{name.partition('.')[0]}.safetensors").predict(name)


KINDS = (bundle, bundle, run_folder, run_folder, table)
HOME = tuple(
    os.path.realpath(path) + os.sep
    for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), ROOT / "src", ROOT / "tests")
)
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.",
    "pty.spawn",
    "os.fork",
)


def is_ours(name: str) -> bool:
    """Whether code is of Python, of an installed package, of Luthier, or of the project that `eject` writes."""
    return name.startswith(("<", *HOME)) or name.startswith(".out.") or os.path.realpath(name).startswith(HOME)


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    foreign = event.startswith(FORBIDDEN)
    if event == "exec":
        foreign = not is_ours(arguments[0].co_filename)
    if event == "compile":
        foreign = isinstance(arguments[1], str) and not is_ours(arguments[1])
    if foreign:
        os.write(2, f"FORBIDDEN {event} {str(arguments)[:500]}\n".encode(errors="replace"))
        os._exit(9)


def run_case(number: int, place: Path) -> None:
    """Run one case in this process, and leave it."""
    draw = random.Random(number)
    os.chdir(tempfile.mkdtemp(dir=place / "cases"))
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    with open("said", "w") as said:
        os.dup2(said.fileno(), 2)
        status = 0
        try:
            sys.addaudithook(watch)
            draw.choice(KINDS)(place, draw)
        except LuthierError as error:
            str(error).encode()
        except BaseException:
            traceback.print_exc(file=said)
            status = 1
        if Path("was-run").exists():
            said.write("foreign code was run")
            status = 9
        said.flush()
    os._exit(status)


def serve(place: Path, first: int, count: int) -> list[str]:
    """Run cases, each in a fork of this process, which has all modules and no threads; return what failed."""
    failed = []
    for number in range(first, first + count):
        (place / "cases").mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            run_case(number, place)
        _, status, used = os.wait4(child, 0)
        said = "".join(path.read_text(errors="replace") for path in (place / "cases").glob("*/said"))
        if status or used.ru_maxrss > BYTES >> 10:
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.WEXITSTATUS(status)}"
            failed.append(f"case {number}: {how}, {used.ru_maxrss >> 10} MB\n{said[-1500:]}")
        shutil.rmtree(place / "cases")
    return failed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of each kind, data for each, and a run."""
    place = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    penguins = pl.read_csv(ROOT / "examples" / "penguins.csv", null_values=["NA"])
    penguins.write_parquet(place / "table.parquet")
    penguins.write_csv(place / "table.csv")
    y = [i % 2 for i in range(80)]
    words = ["good", "bad", "fine", "poor", "dear"]
    texts = [" ".join(rng.choice(words, 8)) + f" {i}" for i in range(80)]
    pl.DataFrame({"text": texts, "x": rng.normal(size=80), "y": y}).write_csv(place / "text.csv")
    steps = {f"t_{k}": rng.normal(size=80) + np.array(y) for k in range(8)}
    pl.DataFrame({**steps, "y": y}).write_csv(place / "series.csv")
    np.savez(place / "image.npz", x=rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8), y=np.arange(60) % 2)
    made: dict[str, Any] = {
        "table": luthier.train(place / "table.csv", target="species", run=place / "run", epochs=2),
        "text": luthier.train(place / "text.csv", target="y", kind={"text": "text"}, epochs=1),
        "series": luthier.train(place / "series.csv", target="y", channel=["t_*"], network="recurrent", epochs=1),
        "image": luthier.train(place / "image.npz", epochs=1),
    }
    for name, result in made.items():
        result.model.save(place / f"{name}.safetensors")
    return place


def check_cases(place: Path, first: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.faults.test_fuzz", str(place), str(first), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    failed = json.loads(done.stdout.splitlines()[-1])  # after what runs print
    assert not failed, f"{len(failed)} of {count} cases failed\n" + "\n".join(failed[:5])


def test_200_changed_files(place: Path) -> None:
    check_cases(place, 0, 200)


@pytest.mark.slow
def test_2000_changed_files(place: Path) -> None:
    check_cases(place, 1000, 2000)


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine()
    logging.disable()
    warnings.simplefilter("ignore")
    for module in (
        "pipeline.eject",
        "pipeline.train",
        "pipeline.replay",
        "pipeline.report",
        "serving.inputs",
        "serving.answers",
        "serving.summary",
        "networks.drawing",
        "checks.look",
    ):
        __import__(f"luthier.{module}")
    for other in ("torch._dynamo", "torch.profiler", "numpy.ma", "numpy.ctypeslib"):  # which each fork would load
        __import__(other)
    print(json.dumps(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
