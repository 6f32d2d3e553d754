"""The page to try a model: hostile text stays text, and in Chromium the form gets its answer and asks for no more."""

import base64
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import luthier
from luthier.http.app import App
from tests.http.conftest import Client

HOSTILE = '"><img src=x onerror=document.title="taken"><script>document.title="taken"</script>'
WORST = f"{HOSTILE}\u202e\u2028'`\\"
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--remote-debugging-port=0", "--remote-allow-origins=*",
]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {
        WORST: [HOSTILE, "plain"] * 30,
        "size": [float(i % 9) for i in range(60)],
        "y": [f"{HOSTILE}a", f"{HOSTILE}b"] * 30,
    }
    made = tmp_path_factory.mktemp("page") / "odd model.safetensors"
    luthier.train(data, target="y", epochs=1, seed=0, check=False, verbose=False).save(made)
    return made


class Elements(HTMLParser):
    """The elements of a page, by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_names_are_text_and_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    answer = Client(App([str(path)]))("GET", "/")
    elements = Elements(answer.text).found
    assert [tag for tag, _ in elements].count("script") == 1
    assert not [tag for tag, _ in elements if tag in ("img", "link", "iframe")]
    assert not [name for _, given in elements for name in given if name.startswith("on")]
    assert not re.search(r"https?://", answer.text)
    form = next(given for tag, given in elements if tag == "form")
    assert json.loads(form["data-columns"] or "") == [WORST, "size"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


@contextmanager
def opened(path: Path, tmp_path: Path) -> Iterator[Any]:
    """Run the server and Chromium with its page; yield what runs JavaScript in it."""
    client = pytest.importorskip("websockets.sync.client")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    server = uvicorn.Server(uvicorn.Config(App([str(path)]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    address = "http://{}:{}".format(*server.servers[0].sockets[0].getsockname()[:2])
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path}", address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            port_file = tmp_path / "DevToolsActivePort"
            while not port_file.exists() or not port_file.read_text():
                time.sleep(0.05)
            port = port_file.read_text().split()[0]
            for _ in range(200):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as found:
                    pages = [one for one in json.loads(found.read()) if one["url"].startswith(address)]
                if pages:
                    break
                time.sleep(0.05)
            with client.connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:

                def run(code: str) -> Any:
                    asked = {"expression": code, "awaitPromise": True, "returnByValue": True}
                    socket.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": asked}))
                    result = json.loads(socket.recv()).get("result", {"result": {"value": None}})  # while it loads
                    assert "exceptionDetails" not in result, result["exceptionDetails"]
                    return result["result"]["value"]

                while not run("document.readyState === 'complete' && document.forms.length"):
                    time.sleep(0.05)
                yield run
        finally:
            browser.terminate()
            server.should_exit = True
            thread.join()


@pytest.fixture
def page(path: Path, tmp_path: Path) -> Iterator[Any]:
    with opened(path, tmp_path) as run:
        yield run


_ASK = """
(async () => {
  const form = document.forms[0], output = form.nextElementSibling;
  form.querySelectorAll("[data-kind]")[1].value = "1e9 <b>";
  form.requestSubmit();
  while (!output.querySelector("table, .error")) await new Promise(done => setTimeout(done, 20));
  return JSON.stringify({
    cells: [...output.querySelectorAll("td")].map(cell => cell.textContent), said: output.textContent,
    title: document.title, width: [document.documentElement.scrollWidth, innerWidth],
    asked: performance.getEntriesByType("resource").map(entry => new URL(entry.name).host + " " + location.host),
    elements: output.querySelectorAll("img, script, b").length,
  });
})()
"""


def test_the_form_is_answered_in_chromium(page: Any) -> None:
    found = json.loads(page(_ASK))
    assert found["cells"][0] in (f"{HOSTILE}a", f"{HOSTILE}b")
    assert len(found["cells"]) == 3
    assert "column 'size': 1 cell is not a number, and counts as missing" in found["said"]
    assert found["title"] == "Luthier"
    assert found["elements"] == 0
    assert found["width"][0] <= found["width"][1]
    assert {entry.split()[0] for entry in found["asked"]} == {entry.split()[1] for entry in found["asked"]}


_SEND_IMAGE = """
(async () => {
  const form = document.forms[0], output = form.nextElementSibling, given = new DataTransfer();
  given.items.add(new File([Uint8Array.from(atob("%s"), c => c.charCodeAt(0))], "mine.png"));
  form.querySelector("[data-kind=image]").files = given.files;
  form.requestSubmit();
  while (!output.querySelector("table, .error")) await new Promise(done => setTimeout(done, 20));
  return [...output.querySelectorAll("td")].map(cell => cell.textContent);
})()
"""


def test_an_image_of_a_row_is_sent_by_the_form(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    path = bundle("shots")
    file = path.parent / "shots" / "0.png"
    with opened(path, tmp_path) as run:
        cells = run(_SEND_IMAGE % base64.b64encode(file.read_bytes()).decode())
        size = run("document.querySelector('[data-kind=number]').value")
    chances = luthier.load(path).predict_proba([{"shot": str(file), "size": float(size)}])[0]
    assert [float(cell) for cell in cells[1:3]] == pytest.approx(chances.tolist(), abs=1e-12)
