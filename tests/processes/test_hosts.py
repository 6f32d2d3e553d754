"""Two hosts with a network between them that is cut: both ends say so in time, and the run goes on with its bits.

The hosts are network namespaces. A proxy between the processes could not cut them: gloo connects each pair at the
addresses that the processes themselves announce.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.test_launch import ROOT, SETTINGS, digest, ended, ends_well, start, table, wait_for_steps

LIMIT_S = 5


class Hosts:
    """Two namespaces, each with a name of its own for its host, and a line between them."""

    def __init__(self) -> None:
        self.names = [f"lt{os.getpid()}{side}" for side in "ab"]
        self.started: list[subprocess.Popen[str]] = []

    def make(self) -> str:
        """Make them; return why they cannot be made, or nothing."""
        a, b = self.names
        lines = [
            f"ip netns add {a}",
            f"ip netns add {b}",
            f"ip link add {a} netns {a} type veth peer name {b} netns {b}",
        ]
        for i, name in enumerate(self.names, 1):
            lines += [f"ip -n {name} addr add 10.77.0.{i}/24 dev {name}", f"ip -n {name} link set {name} up"]
            lines += [f"ip -n {name} link set lo up", f"ip netns exec {name} unshare --uts hostname {name}"]
        for line in lines:
            try:
                done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
            except OSError as error:
                return str(error)
            if done.returncode:
                return f"{line}: {done.stderr.strip()}"
        return ""

    def remove(self) -> None:
        for process in self.started:
            process.kill()
            process.communicate()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def line(self, state: str) -> None:
        """Cut the line (`down`), or put it back (`up`)."""
        subprocess.run(["ip", "-n", self.names[0], "link", "set", self.names[0], state], check=True)

    def start(self, rank: int, *arguments: Any) -> "subprocess.Popen[str]":
        """Start a process of two on its host."""
        name = self.names[rank]
        command = shlex.join([sys.executable, "-m", "luthier", *map(str, arguments)])
        env = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500"}
        env |= {"GLOO_SOCKET_IFNAME": name, "LUTHIER_PROCESS_TIMEOUT_S": str(LIMIT_S), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f"hostname {name}; exec {command}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT / "src")},
        )
        self.started.append(process)
        return process


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    why = "" if sys.platform == "linux" else "network namespaces are Linux's"
    try:
        if why := why or made.make():
            pytest.skip(f"two hosts cannot be made here ({why})")
        yield made
    finally:
        made.remove()


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.0, 1.3])
def test_a_cut_network_ends_both_sides_and_the_run_goes_on(tmp_path: Path, hosts: Hosts, wait_s: float) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = ["train", source, "-t", "y", *SETTINGS, "--epochs", 30, "--patience", "none"]
    ends_well(start(*more, "--run", whole))
    pair = [hosts.start(rank, *more, "--run", run, "--continue") for rank in range(2)]
    wait_for_steps(run, pair[0])
    time.sleep(wait_s)
    hosts.line("down")
    cut = time.monotonic()
    try:
        for process, other in zip(pair, (1, 0), strict=True):
            status, said = ended(process)
            assert status == 2, said
            words = f"luthier: process {other} on {hosts.names[other]} has not answered for {LIMIT_S} s"
            assert words in said
            assert said.count("luthier: ") == 1
        assert time.monotonic() - cut < 2 * LIMIT_S + 5
    finally:
        hosts.line("up")
    assert not list(run.rglob("*.part"))
    pair = [hosts.start(rank, *more, "--run", run, "--continue") for rank in range(2)]
    for process in pair:
        ends_well(process)
    assert digest(run) == digest(whole)


@pytest.mark.slow
def test_a_network_that_is_back_in_time_stops_nothing(tmp_path: Path, hosts: Hosts) -> None:
    source, whole, run = table(tmp_path), tmp_path / "whole", tmp_path / "run"
    more = ["train", source, "-t", "y", *SETTINGS, "--epochs", 30, "--patience", "none"]
    ends_well(start(*more, "--run", whole))
    pair = [hosts.start(rank, *more, "--run", run) for rank in range(2)]
    wait_for_steps(run, pair[0])
    hosts.line("down")
    time.sleep(LIMIT_S / 3)
    hosts.line("up")
    for process in pair:
        ends_well(process)
    assert digest(run) == digest(whole)
