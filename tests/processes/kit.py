"""Worker processes in one group, kept alive: a test sends them a function by name, and gets what each returned."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Workers:
    """Processes of one group, each of which runs what it is told, one line of JSON at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.folder = tempfile.TemporaryDirectory()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "LUTHIER_GROUP": f"{self.folder.name}/group"}
        env |= {"WORLD_SIZE": str(size), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.processes.kit"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**env, "RANK": str(rank)},
                cwd=ROOT,
            )
            for rank in range(size)
        ]

    def run(self, function: str, *args: Any) -> list[Any]:
        """Return what `module:function` of each process returned."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([function, args]) + "\n")
            process.stdin.flush()
        answers = []
        for rank, process in enumerate(self.processes):
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"process {rank} ended with {process.wait()}"
            answers.append(json.loads(line))
        return answers

    def end(self) -> None:
        """End the processes."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()
        self.folder.cleanup()


@contextmanager
def workers(size: int) -> Iterator[Workers]:
    """Give a group of processes for a while."""
    made = Workers(size)
    try:
        yield made
    finally:
        made.end()


def main() -> None:
    """Do what comes by standard input."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, args = json.loads(line)
        module, _, function = name.partition(":")
        answer = getattr(importlib.import_module(module), function)(*args)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
