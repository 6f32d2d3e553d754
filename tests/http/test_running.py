"""The command under load: stopped, a worker killed, slow clients, a fuzzer, a changed file; and what it prints."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.http.conftest import rows

Bundle = Callable[[str], Path]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command on a free port until the end, and wait until it is ready."""
    command = [sys.executable, "-m", "luthier", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        assert found, process.stderr and process.stderr.read()
        port = int(found[1])
        for _ in range(600):
            with suppress(OSError):
                if get(port, "/health/ready") == b"ready\n":
                    break
            time.sleep(0.1)
        try:
            yield process, port
        finally:
            process.terminate()
            process.wait(30)


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the workers, the oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


class Load:
    """Clients that ask one after the other on connections that stay open, and hold each answer against the first."""

    def __init__(self, port: int, clients: int) -> None:
        self.port, self.counts, self.is_over = port, Counter[str](), False
        self.bodies = [json.dumps({"rows": [row]}).encode() for row in rows(20)]
        self.answers: dict[bytes, set[bytes]] = {body: set() for body in self.bodies}
        self.threads = [threading.Thread(target=self.ask, args=(i,)) for i in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        for thread in self.threads:
            thread.join()

    def ask(self, number: int) -> None:
        connection: HTTPConnection | None = None
        while not self.is_over:
            body = self.bodies[number % len(self.bodies)]
            number += 1
            try:
                connection = connection or HTTPConnection("127.0.0.1", self.port, timeout=30)
                if connection.sock is None:
                    connection.connect()
            except OSError:
                self.counts["refused"] += 1
                time.sleep(0.01)
                continue
            try:
                connection.request("POST", "/predict", body)
                answer = connection.getresponse()
                self.answers[body].add(answer.read())
                self.counts[str(answer.status)] += 1
            except (HTTPException, OSError):
                self.counts["lost"] += 1
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def head(path: str = "/predict", *lines: str, body: bytes = b"") -> bytes:
    """Return a request as it is sent."""
    fields = [
        "host: x",
        *lines,
        *([] if any("chunked" in line for line in lines) else [f"content-length: {len(body)}"]),
    ]
    return "\r\n".join([f"POST {path} HTTP/1.1", *fields, "", ""]).encode() + body


def read_answers(made: socket.socket, count: int) -> list[tuple[int, dict[str, str], Any]]:
    """Return that many answers of a connection: status, headers, and the body as JSON."""
    found = []
    with made.makefile("rb") as lines:
        for _ in range(count):
            while (status := int(lines.readline().split()[1])) == 100:
                lines.readline()
            headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
            found.append((status, headers, json.loads(lines.read(int(headers["content-length"])))))
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_row_is_answered_alike_however_its_request_comes(bundle: Bundle, workers: str) -> None:
    """What is there at once is answered without a task; the rest is uvicorn's; both keep their order."""
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows(6)]
    many, bad = json.dumps({"rows": rows(3)}).encode(), b'{"rows": [3]}'
    with serving(str(bundle("words")), "--log-requests", "--workers", workers) as (process, port):

        def ask(*parts: bytes, count: int = 1) -> list[tuple[int, dict[str, str], Any]]:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in parts:
                    made.sendall(part)
                    time.sleep(0.1 * (len(parts) > 1))
                return read_answers(made, count)

        wanted = [ask(head(body=body))[0] for body in bodies]
        assert {status for status, _, _ in wanted} == {200}
        one, body = head(body=bodies[0]), bodies[0]
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        ways: dict[str, tuple[bytes, ...]] = {
            "in two parts": (one[:-9], one[-9:]),
            "headers first": (one[: -len(body)], one[-len(body) :]),
            "headers in two parts": (one[:20], one[20:]),
            "in chunks": (head("/predict", "transfer-encoding: chunked") + chunks,),
            "by the model's name": (head("/models/words/predict", body=body),),
            "with a query": (head("/predict?a=b", body=body),),
            "after a hundred": (head("/predict", "expect: 100-continue", body=body),),
            "and the connection ends": (head("/predict", "connection: close", body=body),),
        }
        for name, parts in ways.items():
            (status, headers, found), *_ = ask(*parts)
            assert (status, found) == (200, wanted[0][2]), name
            assert headers.get("connection") == ("close" if "ends" in name else None)
            assert {key: headers[key] for key in headers if key not in ("date", "connection")} == {
                key: value for key, value in wanted[0][1].items() if key != "date"
            }, name
        pipelined = [bodies[0], many, bodies[1], bad, bodies[2], bodies[3]]
        answers = ask(b"".join(head(body=body) for body in pipelined), count=6)
        assert [status for status, _, _ in answers] == [200, 200, 200, 422, 200, 200]
        lone = [answers[place][2] for place in (0, 2, 4, 5)]
        assert lone == [found for _, _, found in wanted[:4]]
        assert len(answers[1][2]["predictions"]) == 3
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert " ERROR " not in errors
    assert errors.count("POST /predict 200") == 6 + len(ways) - 1 + 5  # each is counted once
    assert errors.count("POST /models/{name}/predict 200") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_stops_with_status_0(bundle: Bundle, number: int) -> None:
    with serving(str(bundle("words")), "--log-requests") as (process, port):
        assert json.loads(get(port, "/models"))["models"][0]["name"] == "words"
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    assert re.search(r"INFO GET /models 200, \d+ bytes, [\d.]+ ms", errors)
    assert "Traceback" not in errors


def test_a_port_in_use_is_an_error_of_one_line(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "luthier", "serve", str(bundle("words")), "--port", port, "--workers", "2"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"127.0.0.1:{port} is an address that the server cannot listen at" in done.stderr
    assert "[run-address]" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path: Path, workers: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"12345678")
    command = [sys.executable, "-m", "luthier", "serve", str(tmp_path / "m.safetensors"), "--port", "0"]
    done = subprocess.run([*command, "--workers", workers], capture_output=True, text=True)
    assert done.returncode == 2
    assert "[bundle-damaged]" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("package", ["msgspec", "uvicorn", "prometheus_client", "python_multipart"])
def test_a_missing_package_is_named(bundle: Bundle, package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from luthier.cli.main import _run
sys.exit(_run(["serve", {str(bundle("words"))!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "pip install 'luthier[serve]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_under_load_loses_no_request(bundle: Bundle, workers: str) -> None:
    with serving(str(bundle("words")), "--workers", workers) as (process, port), Load(port, 16) as load:
        time.sleep(2)
        process.terminate()
        process.wait(30)
        time.sleep(0.2)
    assert process.returncode == 0
    assert load.counts["200"] > 500
    assert load.counts["lost"] == 0
    assert set(load.counts) <= {"200", "refused", "lost"}
    assert all(len(found) == 1 for found in load.answers.values())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_workers_that_are_killed_under_load_lose_no_request(bundle: Bundle, number: int) -> None:
    with serving(str(bundle("words")), "--workers", "2") as (process, port):
        with Load(port, 16) as load:
            for kill in range(6):
                time.sleep(2)
                before = children(process)
                for worker in before if kill == 5 else before[:1]:  # at the end both
                    os.kill(worker, number)
                for _ in range(300):
                    time.sleep(0.1)
                    if len(set(children(process)) - set(before)) == (2 if kill == 5 else 1):
                        break
            time.sleep(5)
        assert len(children(process)) == 2
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert set(load.counts) == {"200"}
    assert load.counts["200"] > 500
    assert all(len(found) == 1 for found in load.answers.values())
    assert errors.count("another is started") == 7


@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_that_cannot_be_read_are_refused(bundle: Bundle, workers: str) -> None:
    large, body = b"x" * 20_000, json.dumps({"rows": rows(1)}).encode()
    chunk = b"%x\r\n%s\r\n" % (len(large), large)
    cases = {
        "said to be large": (head().replace(b"length: 0", b"length: 2000000"), 413),
        "large": (head(body=large), 413),
        "large, in chunks": (head("/predict", "transfer-encoding: chunked") + chunk + b"0\r\n\r\n", 413),
        "no HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
        "a wrong length": (head().replace(b"length: 0", b"length: -3"), 400),
        "another version": (head(body=body).replace(b"HTTP/1.1", b"HTTP/1.0"), 200),
        "an upgrade": (head("/predict", "connection: upgrade", "upgrade: websocket", body=body), 400),
    }
    with serving(str(bundle("words")), "--workers", workers, "--max-body-mb", "0.01") as (process, port):
        for name, (request, status) in cases.items():
            with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
                made.sendall(request + (b"" if status != 200 else head(body=body)))
                found = b""
                with suppress(ConnectionResetError):  # of what was not read
                    while part := made.recv(1 << 16):
                        found += part
                assert int(found.split()[1]) == status, name
                assert found.count(b"HTTP/1.1 ") == 1, name  # what follows is not answered
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_client_that_sends_no_more_still_gets_its_answers(bundle: Bundle) -> None:
    body = json.dumps({"rows": rows(1)}).encode()
    with (
        serving(str(bundle("words")), "--workers", "2") as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as made,
    ):
        made.sendall(40 * head(body=body))
        made.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in read_answers(made, 40)] == [200] * 40
        assert made.recv(1) == b""


@pytest.mark.slow
def test_where_files_run_out_no_worker_is_killed(bundle: Bundle) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (180, hard))  # the server inherits it
    try:
        with serving(str(bundle("words")), "--workers", "2") as (process, port):
            before = children(process)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with Load(port, 110) as load:
                time.sleep(5)
            assert children(process) == before
            assert get(port, "/health/ready") == b"ready\n"
            process.terminate()
            _, errors = process.communicate(timeout=60)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert load.counts["200"] > 500
    assert set(load.counts) <= {"200", "lost", "refused"}  # the system takes no more connections
    assert "is started" not in errors


@pytest.mark.slow
def test_workers_end_with_the_process_in_front(bundle: Bundle) -> None:
    with serving(str(bundle("words")), "--workers", "2") as (process, _):
        workers = children(process)
        assert len(workers) == 2
        process.kill()
        for _ in range(100):
            time.sleep(0.1)
            if not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers):
                break
        assert not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers)


@pytest.mark.slow
def test_a_worker_that_answers_nothing_is_replaced(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(str(bundle("words")), "--workers", "2", "--timeout-s", "1") as (process, port):
        before = children(process)
        os.kill(before[0], signal.SIGSTOP)
        with Load(port, 4) as load:
            for _ in range(400):
                time.sleep(0.1)
                if before[0] not in children(process):
                    break
        assert before[0] not in children(process)
        assert set(load.counts) == {"200"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_slow_clients_keep_nobody_waiting(bundle: Bundle, workers: str) -> None:
    with serving(str(bundle("words")), "--timeout-s", "2", "--workers", workers) as (_, port):
        slow = []
        for number in range(200):
            made = socket.create_connection(("127.0.0.1", port))
            made.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\n" + b"content-length: 99\r\n\r\n{" * (number % 2))
            slow.append(made)
        start = time.monotonic()
        with Load(port, 1) as load:
            time.sleep(1)
        assert load.counts["200"] > 50
        time.sleep(max(0, 11 - (time.monotonic() - start)))
        for number, made in enumerate(slow):
            made.settimeout(5)
            said = made.recv(1000)
            assert said.startswith(b"HTTP/1.1 408") if number % 2 else said == b""
            made.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_cut_bodies_and_vanished_clients_harm_nobody(bundle: Bundle, workers: str) -> None:
    body = json.dumps({"rows": rows(3)}).encode()
    table = b"size,city,day,paid\n" + b"1,Bonn,2024-01-01,yes\n" * 2000
    sent = [head(body=body), head("/predict", "content-type: text/csv", body=table)]
    sent += [head("/predict", "transfer-encoding: chunked") + b"%x\r\n%s\r\n" % (len(body), body), b"\x16\x03\x01"]
    with serving(str(bundle("words")), "--workers", workers) as (process, port):
        with Load(port, 2) as load:
            for number in range(400):
                request = sent[number % len(sent)]
                part = request[: len(request) * (number % 7 + 1) // 7]
                with socket.create_connection(("127.0.0.1", port)) as made:
                    made.sendall(part)
                    if number % 3 == 0:  # it goes without a word, and with what was not read
                        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    elif number % 3 == 1:
                        made.shutdown(socket.SHUT_WR)
            time.sleep(1)
        assert set(load.counts) == {"200"}
        assert all(len(found) == 1 for found in load.answers.values())
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert " ERROR " not in errors
    assert process.returncode == 0


@pytest.mark.slow
def test_a_full_disk_keeps_files_out_and_rows_are_answered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place := tmp_path / "small").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here (it needs root)")
    monkeypatch.setenv("TMPDIR", str(place))
    table = b"size,city,day,paid\n" + b"1,Bonn,2024-01-01,yes\n" * 500

    def ask(port: int, body: bytes, kind: str) -> tuple[int, Any]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request("POST", "/predict", body, {"content-type": kind})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    try:
        with serving(str(bundle("words")), "--workers", "2") as (process, port):
            before = children(process)
            assert {ask(port, table, "text/csv")[0] for _ in range(20)} == {200}  # each worker finds its folder
            with suppress(OSError), (place / "large").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 512)
            for _ in range(20):
                status, found = ask(port, table, "text/csv")
                assert (status, found["code"]) == (503, "request-busy")
                assert "No space left on device" in found["error"]
                assert str(place) not in found["error"]
                assert ask(port, json.dumps({"rows": rows(2)}).encode(), "application/json")[0] == 200
            assert b"luthier_rows_total" in get(port, "/metrics")
            (place / "large").unlink()
            assert ask(port, table, "text/csv")[0] == 200
            assert children(process) == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_memory_stays_flat(bundle: Bundle) -> None:
    def resident(process: subprocess.Popen[str]) -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])  # type: ignore[index]

    body = json.dumps({"rows": [{**rows(1)[0], "city": "new"}]}).encode()  # by way of a frame
    with serving(str(bundle("words"))) as (process, port):
        sizes = []
        connection = HTTPConnection("127.0.0.1", port)
        for number in range(6000):
            connection.request("POST", "/predict", body if number % 3 else b"{")
            connection.getresponse().read()
            if number % 1000 == 999:
                sizes.append(resident(process))
        connection.close()
    assert sizes[-1] - sizes[1] < 4096, sizes  # kB; the first thousand fill pools


@pytest.mark.slow
def test_a_changed_file_is_taken_up_by_all_workers_without_a_gap(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    shutil.copy(bundle("words"), path)
    other = json.loads(subprocess.check_output([sys.executable, "-c", _FACTS, str(bundle("flags"))], text=True))
    with serving(str(tmp_path), "--workers", "2") as (_, port):
        with Load(port, 8) as load:
            time.sleep(1)
            shutil.copy(bundle("flags"), tmp_path / "beside")
            (tmp_path / "beside").replace(path)
            time.sleep(6)
        assert {json.loads(get(port, "/models"))["models"][0]["version"] for _ in range(20)} == {other}
    assert set(load.counts) == {"200"}
    assert {len(found) for found in load.answers.values()} == {2}  # that of the model before, and of the one after


_FACTS = """
import json, sys
from luthier.http.app import App
print(json.dumps(next(iter(App([sys.argv[1]]).models.values())).version))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_fuzzer_finds_no_fault(bundle: Bundle, tmp_path: Path, workers: str) -> None:
    if shutil.which("schemathesis", path=Path(sys.executable).parent) is None:
        pytest.skip("schemathesis is not installed")
    models = [str(bundle(kind)) for kind in ("words", "numbers", "series", "text", "photos")]
    with serving(*models, "--workers", workers) as (process, port):
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{port}/openapi.json",
            "--seed", "1", "--max-examples", "200",
            "--exclude-checks", "positive_data_acceptance",  # of bytes that are to be images
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert " ERROR " not in errors


def test_metrics_are_summed_over_workers(bundle: Bundle) -> None:
    with serving(str(bundle("words")), "--workers", "2") as (_, port):
        for _ in range(20):
            request: Any = urllib.request.Request(
                f"http://127.0.0.1:{port}/predict", json.dumps({"rows": rows(1)}).encode()
            )
            with urllib.request.urlopen(request) as answer:
                answer.read()
        for _ in range(3):
            assert b'luthier_rows_total{model="words"} 20.0' in get(port, "/metrics")
