"""What one check found."""

from dataclasses import dataclass
from typing import Literal

from luthier.errors import printable


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        code: A stable name.
        severity: An error stops the run; a warning or a note does not.
        evidence: How an error is known: by definition, by an identity that fails, by a value that cannot occur, or by
            a trial on copies. Empty for what is likely.
        what: What the check found, with the figures.
        where: Where: the attribute path of a module, a parameter's name.
        fix: What to do, in one line.
    """

    code: str
    severity: Literal["error", "warning", "note"]
    what: str
    where: str = ""
    fix: str = ""
    evidence: Literal["", "definition", "identity", "value", "trial"] = ""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        text = f"{self.severity}: {self.what}{where} [{self.code}]" + (f"\n  {self.fix}" if self.fix else "")
        return printable(text)
