"""How soon it starts, and in how much memory: wall seconds and peak MB, medians.

`luthier --help`, what `import luthier` adds to `import torch`, and loading a model, by itself and to serve it.

python -m benchmarks.start [--repeats 7]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": "pass",
    "luthier --help": "import sys; sys.argv = ['luthier', '--help']; from luthier.cli.main import run; run()",
    "import torch": "import torch",
    "import torch, luthier": "import torch, luthier",
    "import torch; luthier.fit": "import torch, luthier; luthier.fit",
    "luthier.load": "import luthier; luthier.load({path!r})",
    "the server's application": "from luthier.http.app import App; App([{path!r}])",
}
_TRAIN = "import sys, luthier; luthier.train('examples/penguins.csv', target='species', epochs=5).save(sys.argv[1])"


def run(code: str) -> tuple[float, float]:
    """Return the seconds and the peak MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, code
    process.returncode = 0
    return time.perf_counter() - start, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        subprocess.run([sys.executable, "-c", _TRAIN, path], check=True, stdout=subprocess.DEVNULL)
        for repeat in range(repeats + 1):
            for name, code in COMMANDS.items():
                measured = run(code.replace("{path!r}", repr(str(path))))
                found[name] += [measured] if repeat else []
    for name, runs in found.items():
        seconds, sizes = zip(*runs, strict=True)
        spread = f"[{min(seconds):.3f}, {max(seconds):.3f}]"
        print(f"{name:28} {statistics.median(seconds):.3f} s {spread:16} {statistics.median(sizes):.0f} MB")


if __name__ == "__main__":
    main()
