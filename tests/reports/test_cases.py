"""The cases of `cases`, one test each; those that are known to go wrong say why, and fail when they no longer do."""

from pathlib import Path
from typing import Any

import pytest

from tests.reports import cases

KNOWN = {
    "lines_spaces_between": "columns of fixed width, with several blanks between, are not cut; the message says so",
    "date_dotnet_json": "/Date(1611885991000)/ is not a format of dates",
}
CASES = [
    pytest.param(function, marks=[pytest.mark.xfail(reason=KNOWN[name], strict=True)] if name in KNOWN else [], id=name)
    for name, function in ((name.removeprefix("case_"), part) for name, part in vars(cases).items() if "case_" in name)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_case(case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases.clear()  # type: ignore[no-untyped-call]
    is_right, seen = case(tmp_path)
    assert is_right, seen
