"""The page of a code: what it means, why it is bad, and what to do."""

from importlib.resources import files

from luthier.core.names import did_you_mean
from luthier.errors import SettingError


def explain(code: str) -> str:
    """Return the page of a code of a finding or an error, in Markdown.

    Raises:
        SettingError: no such code.

    >>> explain("check-double-softmax").splitlines()[0]
    '# check-double-softmax'
    """
    page = files("luthier").joinpath("pages", f"{code}.md")
    known = sorted(item.name.removesuffix(".md") for item in files("luthier").joinpath("pages").iterdir())
    if code not in known or code == "index":
        raise SettingError(f"there is no code {code!r}", hint=did_you_mean(code, known), code="setting-unknown-code")
    return page.read_text(encoding="utf-8")
