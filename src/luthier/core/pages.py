"""The page of a code: what it means, why it is bad, and what to do."""

import re
from importlib.resources import files

from luthier.core.names import did_you_mean
from luthier.errors import SettingError

_IGNORED = """
**To ignore it:** `--ignore CODE`; `ignore = ["CODE"]` under `[check]` in a run file; in Python
`luthier.check(…, ignore=["CODE"])` or `fit(…, check=luthier.CheckSettings(ignore=("CODE",)))`.
"""


def explain(code: str) -> str:
    """Return the page of a code of a finding or an error, in Markdown.

    Raises:
        SettingError: no such code.

    >>> explain("check-double-softmax").splitlines()[0]
    '# check-double-softmax'
    """
    known = codes()
    if code not in known:
        raise SettingError(f"there is no code {code!r}", hint=did_you_mean(code, known), code="setting-unknown-code")
    return _page(code)


def codes() -> dict[str, str]:
    """Return all codes of findings and errors, in order, and the first sentence of each one's page.

    >>> codes()["data-file-empty"]
    'The file has 0 bytes.'
    """
    names = sorted(item.name.removesuffix(".md") for item in files("luthier").joinpath("pages").iterdir())
    return {name: _first_sentence(_page(name)) for name in names}


def _page(code: str) -> str:
    text = files("luthier").joinpath("pages", f"{code}.md").read_text(encoding="utf-8")
    return f"{text}{_IGNORED.replace('CODE', code)}" if code.startswith("check-") else text


def _first_sentence(page: str) -> str:
    text = " ".join(page.partition("\n")[2].split()).removeprefix("**What.** ")
    return re.split(r"(?<=[a-zA-Z0-9`)]\.) (?=[A-Z*`])", text, maxsplit=1)[0]
