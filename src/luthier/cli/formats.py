"""Findings for programs that read them: GitHub's annotations and SARIF; and a baseline of those that are known."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from luthier.core.finding import Finding
from luthier.core.pages import codes
from luthier.core.version import VERSION
from luthier.errors import RunError, SettingError, printable
from luthier.store.files import read_plain, write_whole

_LEVELS = {"error": "error", "warning": "warning", "note": "note"}
_GITHUB = {"error": "error", "warning": "warning", "note": "notice"}


def place_of(source: str) -> tuple[str, int]:
    """Return the file of what was checked and the line where its function begins, or line 1."""
    file, colon, name = source.rpartition(":")
    if not (colon and file.endswith(".py")):
        return source, 1
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return file, 1
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    return file, lines[0] if lines else 1


def github(found: Sequence[Finding], source: str) -> list[str]:
    """Return a workflow command a finding, which GitHub shows beside the code.

    >>> print(*github([Finding(code="check-dropout", severity="warning", what="50 % at the end", fix="less")], "a.csv"))
    ::warning file=a.csv,line=1,title=check-dropout::50 %25 at the end%0Aless
    """
    file, line = place_of(source)
    return [
        f"::{_GITHUB[finding.severity]} file={_escaped(file, ',:')},line={line},title={_escaped(finding.code, ',:')}::"
        f"{_escaped(printable(_words(finding)))}"
        for finding in found
    ]


def _escaped(text: str, more: str = "") -> str:
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _words(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    return f"{finding.what}{where}" + (f"\n{finding.fix}" if finding.fix else "")


def sarif(found: Sequence[Finding], source: str) -> dict[str, Any]:
    """Return the findings as a SARIF 2.1.0 document, which code scanning takes."""
    file, line = place_of(source)
    said, names = codes(), sorted({finding.code for finding in found})
    place = {"artifactLocation": {"uri": quote(Path(file).as_posix())}, "region": {"startLine": line}}
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": names.index(finding.code),
            "level": _LEVELS[finding.severity],
            "message": {"text": _words(finding)},
            "locations": [{"physicalLocation": place}],
            "partialFingerprints": {"luthier/v1": f"{finding.code} {finding.where}"},
        }
        for finding in found
    ]
    rules = [{"id": name, "shortDescription": {"text": said.get(name, name)}} for name in names]
    driver = {"name": "luthier", "version": VERSION, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def write_baseline(found: Sequence[Finding], path: Path) -> None:
    """Write which findings are known, by code and place.

    Raises:
        RunError: the file cannot be written.
    """
    known = sorted({(finding.code, finding.where) for finding in found})
    document = {"luthier": 1, "known": [{"code": code, "where": where} for code, where in known]}
    write_whole(path, (json.dumps(document, indent=1) + "\n").encode())


def without_known(found: Sequence[Finding], path: Path) -> list[Finding]:
    """Return the findings that a baseline does not have.

    Raises:
        SettingError: the file is no baseline.
    """
    try:
        known = {(item["code"], item["where"]) for item in json.loads(read_plain(path))["known"]}
    except (OSError, ValueError, KeyError, TypeError, RunError) as error:
        why = "it lacks a list of known findings" if isinstance(error, KeyError | TypeError) else error
        raise SettingError(
            f"{path} is no baseline: {why}", hint="write one with --write-baseline FILE", code="setting-no-run-file"
        ) from error
    return [finding for finding in found if (finding.code, finding.where) not in known]
