"""How soon it starts: `luthier --help`, and what `import luthier` adds to `import torch`; wall seconds, medians.

python -m benchmarks.start [--repeats 7]
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": "pass",
    "luthier --help": "import sys; sys.argv = ['luthier', '--help']; from luthier.cli.main import run; run()",
    "import torch": "import torch",
    "import torch, luthier": "import torch, luthier",
    "import torch; luthier.fit": "import torch, luthier; luthier.fit",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repeat in range(repeats + 1):
        for name, code in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        print(f"{name:28} {statistics.median(found):.3f} s [{min(found):.3f}, {max(found):.3f}]")


if __name__ == "__main__":
    main()
