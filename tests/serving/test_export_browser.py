"""The page of an export in Chromium, offline: raw rows are answered there as by Python and ONNX Runtime.

The npm package onnxruntime-web is fetched once by `npm pack`; without npm or Chromium the tests are skipped.
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import luthier
from luthier.plain.reader.reader import Reader
from luthier.serving.exporting import proof
from tests.serving.test_exporting import CASES, QUICK, model_of

VERSION = "1.30.0"
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--enable-logging=stderr",
]  # fmt: skip
HARNESS = """<!doctype html><meta charset="utf-8">
<iframe id="page" src="index.html"></iframe>
<script>
const wait = async (is) => { for (let i = 0; i < 500 && !is(); i++) await new Promise((go) => setTimeout(go, 50)); };
onload = async () => {
  const found = {};
  try {
    const { contentWindow: view, contentDocument: page } = document.getElementById("page");
    const said = page.getElementById("said"), form = page.getElementById("form");
    await wait(() => !said.textContent.startsWith("Loading"));
    found.said = said.textContent;
    const rows = await (await fetch("rows.json")).json();
    for (const row of rows)
      for (const [name, cell] of Object.entries(row))
        if (String(cell).endsWith(".png")) row[name] = await (await fetch(cell)).blob();
    const model = await view.eval('Luthier.load("")');
    found.answers = await model.predict(rows);
    for (const [name, cell] of Object.entries(rows[0]))
      if (typeof cell === "string") form.elements[name].value = cell;
    found.fields = [...form.elements].map((field) => field.name).filter(Boolean);
    if (Object.values(rows[0]).every((cell) => typeof cell === "string")) {
      form.requestSubmit();
      await wait(() => said.textContent);
      found.form = [...page.querySelectorAll("#answer td")].map((cell) => cell.textContent);
    }
    found.asked = view.performance.getEntriesByType("resource").map((entry) => new URL(entry.name).host);
  } catch (error) {
    found.error = `${error}`;
  }
  await fetch("found", { method: "POST", body: JSON.stringify(found) });
};
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@pytest.fixture(scope="module")
def runtime() -> Path:
    """The files of onnxruntime-web, fetched once to the folder of temporary files."""
    place = Path(tempfile.gettempdir()) / f"onnxruntime-web-{VERSION}"
    if not all((place / name).is_file() for name in FILES):
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        with tempfile.TemporaryDirectory() as folder:
            package = f"onnxruntime-web@{VERSION}"
            done = subprocess.run(["npm", "pack", package], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"npm does not give {package}: {done.stderr[-200:]}")
            shutil.unpack_archive(next(Path(folder).glob("*.tgz")), folder, "gztar", filter="data")
            place.mkdir(exist_ok=True)
            for name in FILES:
                shutil.copy(Path(folder, "package", "dist", name), place)
    return place


class _Handler(SimpleHTTPRequestHandler):
    """Gives the files of a folder, and takes what the page found."""

    found: "Queue[dict[str, Any]]" = Queue()

    def do_POST(self) -> None:
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def in_browser(chromium: str, folder: Path, rows: list[dict[str, Any]], profile: Path) -> dict[str, Any]:
    """Return what the page of an exported folder answers to rows."""
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "harness.html").write_text(HARNESS)
    with served(folder) as address, (profile.with_name("said.txt")).open("w+") as said:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"{address}/harness.html"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            found = _Handler.found.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
        said.seek(0)
        assert not [line for line in said if "CONSOLE" in line]
    assert "answers" in found, found
    return found


@pytest.mark.parametrize(
    "case", ["binary, calibrated, with a threshold", "a number with an interval", "series, text and numbers"]
)
def test_the_browser_answers_as_python_does(
    case: str, chromium: str, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "SIZES", (0, 1, 7, 30))
    (source, target, _), model = CASES[case], model_of(case)
    folder = model.export(tmp_path / "made").path
    shutil.copytree(runtime, folder / "ort")
    frame = source.drop(target).head(12)
    rows = _as_text(frame, tmp_path)
    found = in_browser(chromium, folder, rows, tmp_path / "profile")
    by_reader = Reader(folder / "model.onnx").predict(rows)
    assert found["fields"] == frame.columns
    assert set(found["asked"]) == {found["asked"][0]}
    if model.task == "regression":
        mine = [row["prediction"] for row in found["answers"]]
        np.testing.assert_allclose(mine, by_reader["prediction"], rtol=1e-5)
        np.testing.assert_allclose(mine, model.predict(frame), rtol=1e-4)
        assert found["form"][0] == "prediction"
        assert float(found["form"][1]) == pytest.approx(mine[0], rel=1e-5)
    else:
        assert [row["prediction"] for row in found["answers"]] == by_reader["prediction"].tolist()
        mine = [list(row["probabilities"].values()) for row in found["answers"]]
        np.testing.assert_allclose(mine, by_reader["probabilities"], atol=1e-6)
        np.testing.assert_allclose(mine, model.predict_proba(frame), atol=1e-5)
        assert found["form"][:2] == ["prediction", by_reader["prediction"][0]]


def _as_text(frame: Any, place: Path) -> list[dict[str, Any]]:
    """Return rows as a CSV has them, and lists as text."""
    lists = [name for name in frame.columns if frame[name].dtype.is_nested()]
    texts = {name: [str(steps).replace("None", "nan") for steps in frame[name].to_list()] for name in lists}
    cells = frame.with_columns(pl.Series(name, own) for name, own in texts.items())
    cells.write_csv(place / "rows.csv")
    with (place / "rows.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_browser_answers_images(chromium: str, runtime: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 150)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = (rng.integers(0, 90, (20, 24, 3)) + low).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    model = luthier.train(tmp_path / "images", network="convnet", **QUICK).model
    assert model is not None
    folder = model.export(tmp_path / "made").path
    shutil.copytree(runtime, folder / "ort")
    Image.fromarray(rng.integers(0, 255, (70, 31, 3)).astype(np.uint8)).save(folder / "other.png")
    found = in_browser(chromium, folder, [{"image": "other.png"}], tmp_path / "profile")
    mine = list(found["answers"][0]["probabilities"].values())
    np.testing.assert_allclose([mine], model.predict_proba(folder / "other.png"), atol=1e-5)


def test_the_page_says_what_is_missing(chromium: str, tmp_path: Path) -> None:
    shutil.copy(Path(sys.modules[Reader.__module__].__file__ or "").with_name("index.html"), tmp_path)
    command = [chromium, *FLAGS, "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    with served(tmp_path) as address:
        page = subprocess.run([*command, f"{address}/index.html"], capture_output=True, text=True, timeout=120).stdout
    assert "onnxruntime-web is not there" in page
