"""Requests a second of `luthier serve`, beside a FastAPI route written by hand, LitServe and MLflow's server.

    python -m benchmarks.serving --peers PYTHON [--rounds 3] [--seconds 5] [--out FILE]

One model of a table (examples/penguins.csv), one row a request, two processes each. In each round every server is
started, asked once (its answer must be the model's), warmed up, and put under load by wrk at 1, 16 and 256 connections;
the order is turned from round to round. wrk runs on the same machine: its share of all processors is in the table, and
the CPU time that a request costs the server's processes, which depends less on what else the machine does.
`--peers` names the Python of an environment with fastapi, litserve and mlflow-skinny beside what Luthier needs.
"""

import argparse
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import luthier

WORKERS = 2
CONNECTIONS = (1, 16, 256)
ROW = {
    "island": "Biscoe", "bill_length_mm": 46.1, "bill_depth_mm": 13.2, "flipper_length_mm": 211.0,
    "body_mass_g": 4500.0, "sex": "female", "year": 2007.0,
}  # fmt: skip
_MLFLOW = """
import sys
import mlflow.pyfunc
mlflow.pyfunc.save_model(sys.argv[2], loader_module="luthier.training.trackers", data_path=sys.argv[1])
"""
Figures = dict[str, float]
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def commands(bundle: Path, peers: str, port: int, folder: Path) -> dict[str, list[str]]:
    """Return what starts each server."""
    rivals = str(Path(__file__).with_name("serving_rivals.py"))
    found = {
        "luthier serve": [
            sys.executable,
            "-m",
            "luthier",
            "serve",
            str(bundle),
            "--port",
            str(port),
            "--workers",
            str(WORKERS),
        ]
    }
    if peers:
        for name in ("fastapi", "litserve"):
            found[name] = [peers, rivals, name, str(bundle), str(port), str(WORKERS)]
        saved = folder / "mlflow"
        if not saved.exists():
            subprocess.run([peers, "-c", _MLFLOW, str(bundle), str(saved)], check=True, capture_output=True)
        found["mlflow"] = [
            peers, "-m", "mlflow", "models", "serve", "-m", str(saved), "-p", str(port), "-w", str(WORKERS),
            "--env-manager", "local",
        ]  # fmt: skip
    return found


def request_of(name: str) -> tuple[str, bytes]:
    """Return the path and the body of one row."""
    if name == "mlflow":
        return "/invocations", json.dumps({"dataframe_records": [ROW]}).encode()
    return "/predict", json.dumps({"rows": [ROW]}).encode()


def ask(port: int, path: str, body: bytes) -> Any:
    """Return the answer to one request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def cpu_of(group: int) -> float:
    """Return the CPU seconds of the processes of a group so far."""
    found = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * (int(fields[2]) == group)
    return found


def load(port: int, path: str, body: bytes, connections: int, seconds: int, server: int, folder: Path) -> Figures:
    """Put a server under load; return requests a second, p50 and p99 in ms, failures, CPU a request, wrk's share."""
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [[{body.decode()}]]\nwrk.headers['Content-Type'] = 'application/json'\n"
    )
    before, start, served = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), cpu_of(server)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", str(script)]
    said = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], check=True, capture_output=True, text=True
    ).stdout
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ends = {name: re.search(rf"{name}%\s+([\d.]+)(us|ms|s)", said) for name in ("50", "99")}
    failed = [int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", said)]
    failed += [sum(map(int, re.findall(r"\d+", line))) for line in re.findall(r"Socket errors: (.*)", said)]
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert rate, said
    found = {f"p{name}": float(end[1]) * _MS[end[2]] for name, end in ends.items() if end}
    count = re.search(r"(\d+) requests in", said)
    assert count, said
    found["cpu_ms"] = 1000 * (cpu_of(server) - served) / max(int(count[1]), 1)
    return {"rate": float(rate[1]), **found, "failed": sum(failed), "wrk": cpu / wall / (os.cpu_count() or 1)}


def wait_until_quiet(most_s: float) -> None:
    """Wait until nobody else uses the processors, or as long as may be: then the rounds say how alike they are."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = [int(value) for value in Path("/proc/stat").read_text().split()[1:9]]
        time.sleep(0.5)
        after = [int(value) for value in Path("/proc/stat").read_text().split()[1:9]]
        spent = [later - sooner for later, sooner in zip(after, before, strict=True)]
        if (spent[3] + spent[4]) > 0.85 * sum(spent):  # idle, and idle while a disk is waited for
            return


def measure(
    name: str, command: Sequence[str], port: int, expected: Any, seconds: int, wait_s: float, folder: Path
) -> dict[int, Any]:
    """Start a server, hold its answer against the model's, and return its figures by connections."""
    path, body = request_of(name)
    paths = os.pathsep.join([str(Path(luthier.__file__).parents[1]), str(Path(__file__).parent)])
    programs = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])  # MLflow starts uvicorn by name
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "PATH": programs}
    with (folder / f"{name}.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            answer = None
            for _ in range(600):
                with suppress(OSError):
                    answer = ask(port, path, body)
                    break
                if server.poll() is not None:
                    break
                time.sleep(0.1)
            assert answer is not None, (folder / f"{name}.log").read_text()[-2000:]
            found = answer["predictions"][0]
            assert next(iter(found.values())) == expected, answer
            time.sleep(5)  # until all workers are there
            load(port, path, body, 16, 2, server.pid, folder)
            found = {}
            for count in CONNECTIONS:
                wait_until_quiet(wait_s)
                found[count] = load(port, path, body, count, seconds, server.pid, folder)
            return found
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--peers", default="", help="Python of an environment with the other servers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--wait-s", type=float, default=15, help="how long to wait for idle processors before each")
    parser.add_argument("--out", help="file for the raw figures, as JSON")
    given = parser.parse_args()
    raw: dict[str, list[dict[int, Any]]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder, bundle = Path(made), Path(made) / "penguins.safetensors"
        luthier.train("examples/penguins.csv", target="species", seed=0, verbose=False).save(bundle)
        expected = str(luthier.load(bundle).predict(ROW)[0])
        for turn in range(given.rounds):
            names = list(commands(bundle, given.peers, 0, folder))
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                with socket.create_server(("127.0.0.1", 0)) as free:
                    port = free.getsockname()[1]
                command = commands(bundle, given.peers, port, folder)[name]
                raw.setdefault(name, []).append(
                    measure(name, command, port, expected, given.seconds, given.wait_s, folder)
                )
                print(f"# round {turn + 1}, {name}: {json.dumps(raw[name][-1])}", file=sys.stderr, flush=True)
    if given.out:
        Path(given.out).write_text(json.dumps(raw, indent=1))
    print(
        "| server | connections | requests a second | rounds | p50 ms | p99 ms | ms of CPU a request | failed | wrk |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for count in CONNECTIONS:
        for name, rounds in raw.items():
            of = {key: [one[count][key] for one in rounds] for key in rounds[0][count]}
            middle = {key: statistics.median(values) for key, values in of.items()}
            each = ", ".join(f"{rate:,.0f}" for rate in of["rate"])
            print(
                f"| {name} | {count} | {middle['rate']:,.0f} | {each} | {middle['p50']:.2f} | {middle['p99']:.2f} | "
                f"{middle['cpu_ms']:.3f} | "
                f"{sum(of['failed']):.0f} | {100 * middle['wrk']:.0f} % |"
            )


if __name__ == "__main__":
    main()
