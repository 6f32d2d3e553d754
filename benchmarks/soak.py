"""Memory of `luthier serve` over a million requests: good rows, odd cells, tables, and bodies it refuses.

    python -m benchmarks.soak [--requests 1000000] [--connections 16] [--workers 1]

wrk sends 64 bodies in turn: 55 rows, a third of them with values that training rows do not have and that are new each
time, 8 that are JSON cut short, and a CSV file. A line a tenth of the requests, and the server's resident memory.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import luthier
from benchmarks.serving import ROW, ask

_LUA = """
wrk.method = "POST"
local bodies = { %s }
local kinds = { %s }
local number = 0
request = function()
  number = number %% #bodies + 1
  wrk.headers["Content-Type"] = kinds[number]
  return wrk.format(nil, nil, nil, bodies[number]:gsub("NEW", tostring(math.random(1000000))))
end
"""


def bodies() -> list[tuple[str, str]]:
    """Return bodies, each with its media type; NEW is another number in each request."""
    rows = [ROW | {"body_mass_g": 3000 + 300 * number} for number in range(4)]
    rows += [ROW | {"island": "island NEW"}, ROW | {"year": 20_000, "sex": "NEW"}]
    found = [(json.dumps({"rows": [row]}), "application/json") for row in rows]
    table = "\\n".join([",".join(ROW), *[",".join(map(str, ROW.values()))] * 3])
    return [*(found * 10)[:55], *[('{"rows": [{"island": ', "application/json")] * 8, (table, "text/csv")]


def resident_mb(pid: int) -> list[float]:
    """Return the resident memory of the server's process, and of its workers."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            facts = dict(re.findall(r"(\w+):\s+(\d+)", place.read_text()))
            if str(pid) in (facts["Pid"], facts["PPid"]) and int(facts.get("VmRSS", 0)) > 20_000:
                found[int(facts["Pid"])] = int(facts["VmRSS"]) / 1024
    return [found[key] for key in sorted(found)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder, bundle = Path(made), Path(made) / "penguins.safetensors"
        luthier.train("examples/penguins.csv", target="species", seed=0, verbose=False).save(bundle)
        script = folder / "bodies.lua"
        sent = bodies()
        texts = [", ".join(f"[[{part}]]".replace("\\n", "\n") for part in side) for side in zip(*sent, strict=True)]
        script.write_text(_LUA % tuple(texts))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": str(Path(luthier.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "luthier", "serve", str(bundle), "--port", str(port), "--quiet"]
        command += ["--workers", str(given.workers)]
        server = subprocess.Popen(command, env=environment)
        try:
            for _ in range(600):
                try:
                    ask(port, "/predict", sent[0][0].encode())
                    break
                except OSError:
                    time.sleep(0.1)
            print("| requests | refused, 1 in 8 | a second | resident MB |\n| --- | --- | --- | --- |")
            count = refused = 0
            next_line, start = 0, time.perf_counter()
            while count < given.requests:
                wrk = [
                    "wrk",
                    "-t1",
                    f"-c{given.connections}",
                    "-d5s",
                    "-s",
                    str(script),
                    f"http://127.0.0.1:{port}/predict",
                ]
                said = subprocess.run(wrk, check=True, capture_output=True, text=True).stdout
                assert "Socket errors" not in said, said
                done, bad = re.search(r"(\d+) requests in", said), re.search(r"Non-2xx or 3xx responses: (\d+)", said)
                assert done, said
                count, refused = count + int(done[1]), refused + (int(bad[1]) if bad else 0)
                if count >= next_line or count >= given.requests:
                    rate = count / (time.perf_counter() - start)
                    sizes = ", ".join(f"{size:.1f}" for size in resident_mb(server.pid))
                    print(f"| {count:,} | {refused:,} | {rate:,.0f} | {sizes} |", flush=True)
                    next_line += given.requests // 10
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


if __name__ == "__main__":
    main()
