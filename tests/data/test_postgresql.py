"""A real PostgreSQL as a source: `apt-get install postgresql` and the extra `luthier[sql]`."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import polars as pl
import pytest

import luthier
from luthier.data.files import read_any
from luthier.data.textfile import ReadOptions
from luthier.errors import DataError
from tests.data.test_files import QUICK, in_words, table

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAMS, reason="Debian's package postgresql is not installed"),
    pytest.mark.skipif(find_spec("connectorx") is None, reason="luthier[sql] is not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server of its own on a free port, with a password, and give its URL."""
    place = Path(mkdtemp(prefix="luthier-pg-"))
    (place / "password").write_text("s3cret")
    runner: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam("postgres")
        for path in (place, place / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        runner = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [*runner, str(PROGRAMS[-1] / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=place, timeout=120)

    data = str(place / "data")
    call("initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", "--pwfile", str(place / "password"))
    call("pg_ctl", "-D", data, "-w", "-l", str(place / "log"), "-o", f"-p {port} -h 127.0.0.1 -k {place}", "start")
    try:
        yield f"postgresql://me:s3cret@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(place)


def ask(url: str, statement: str) -> None:
    subprocess.run(
        [str(PROGRAMS[-1] / "psql"), url, "-q", "-v", "ON_ERROR_STOP=1"], input=statement, text=True, check=True
    )


@pytest.fixture(scope="module")
def filled(server: str) -> str:
    kinds = "size float8, count int, half numeric(8, 2), colour text, open boolean, day date, y smallint"
    rows = table().write_csv(include_header=False)
    ask(server, f"CREATE TABLE t ({kinds});\nCOPY t FROM STDIN WITH (FORMAT csv);\n{rows}\\.\n")
    return server


def test_a_table_of_postgresql_is_that_of_its_csv(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table().write_csv("t.csv")
    query = "SELECT * FROM t"
    found = luthier.train(filled, target="y", query=query, run="run", **QUICK)
    assert found.model is not None
    assert found.model.schema is not None
    assert in_words(found.model.schema) == in_words(luthier.design("t.csv", target="y").schema)
    assert found.predict(filled, options=ReadOptions(query=query)).tolist() == found.predict(table()).tolist()
    written = b"".join(path.read_bytes() for path in Path("run").rglob("*") if path.is_file())
    assert b"s3cret" not in written, "no password is kept"
    with pytest.raises(DataError) as caught:
        luthier.resume("run", epochs=3)
    assert caught.value.code == "data-database"


def test_other_types_and_errors(server: str) -> None:
    query = (
        "SELECT 1::bigint AS whole, 1.5::numeric AS exact, NULL::text AS gone, 'a'::varchar AS word, "
        "'2024-05-01 08:30+02'::timestamptz AS moment, ARRAY[1.5, 2.5]::float8[] AS series, 0.1::float4 AS small, "
        "'6f9619ff-8b86-d011-b42d-00c04fc964ff'::uuid AS key"
    )
    found = read_any(server, ReadOptions(query=query)).frame
    assert found.row(0, named=True) == {
        "whole": 1, "exact": 1.5, "gone": None, "word": "a", "moment": found["moment"][0], "series": [1.5, 2.5],
        "small": 0.1, "key": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    }  # fmt: skip
    assert isinstance(found.schema["moment"], pl.Datetime)
    for bad, said in (("SELECT nothing FROM nowhere", "nowhere"), ("SELECT 1 AS", "syntax")):
        with pytest.raises(DataError, match=said) as caught:
            read_any(server, ReadOptions(query=bad))
        assert "s3cret" not in str(caught.value)
