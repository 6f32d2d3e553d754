"""The gallery's reports in Chromium: offline, light and dark, narrow and wide; nothing asked for, nothing cut off.

The frames of one page show a report in each width and scheme; a script beside them measures what is in them.
"""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from docs.gallery import REPORTS

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--allow-file-access-from-files", "--disable-web-security",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=20000",
]  # fmt: skip
HARNESS = """<!doctype html><meta charset="utf-8"><pre id="found"></pre>
{frames}
<script>
onload = () => {
  const found = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
    for (const part of page.querySelectorAll("details")) part.open = true;
    const cut = [];
    for (const element of page.querySelectorAll("body *")) {
      const style = view.getComputedStyle(element);
      if (element.matches("svg *, .skip") || style.overflowX !== "visible" || style.display === "inline") continue;
      if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth)
        cut.push(`${element.tagName} ${element.className}: ${element.textContent.slice(0, 60)}`);
    }
    for (const label of page.querySelectorAll("svg.chart text")) {
      const own = label.getBoundingClientRect(), box = label.closest("svg").getBoundingClientRect();
      if (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1)
        cut.push(`label ${label.textContent} of ${label.closest("figure").textContent.slice(0, 40)}`);
    }
    found.push({
      frame: frame.title, width: view.innerWidth, scroll: root.scrollWidth, client: root.clientWidth, cut,
      ground: view.getComputedStyle(page.body).backgroundColor, charts: page.querySelectorAll("svg.chart").length,
      asked: view.performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    });
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


def look(chromium: str, page: Path, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return what is in the frames of a page, and what Chromium's console says."""
    frames = "".join(
        f'<iframe title="{scheme} {width}" src="{page.as_uri()}" style="width:{width}px;height:900px;'
        f'color-scheme:{scheme}"></iframe>'
        for width in (400, 1400)
        for scheme in ("light", "dark")
    )
    (folder / "harness.html").write_text(HARNESS.replace("{frames}", frames))
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "harness.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    frames_found: list[dict[str, Any]] = json.loads(unescape(found[1]))
    return frames_found, "\n".join(console)


@pytest.mark.slow  # a training each
@pytest.mark.parametrize("name", list(REPORTS))
def test_a_report_is_whole_in_a_browser(
    chromium: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / f"{name}.html"
    REPORTS[name]().report(page)
    frames, console = look(chromium, page, tmp_path)
    assert console == ""
    assert len(frames) == 4
    for frame in frames:
        assert frame["charts"] > 1
        assert frame["scroll"] <= frame["client"], frame
        assert frame["cut"] == [], frame["frame"]
        assert frame["asked"] == []
    grounds = {frame["frame"].split()[0]: frame["ground"] for frame in frames}
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}


@pytest.mark.slow
def test_the_browser_test_sees_what_is_wrong(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><script>console.error("no")</script><img src="http://example.org/a.png">'
        '<p style="width:2000px">wide</p>'
    )
    frames, console = look(chromium, page, tmp_path)
    assert "no" in console
    assert all(frame["scroll"] > frame["client"] for frame in frames)
    assert all(frame["asked"] for frame in frames)
