"""The exception tree: every mistake a user can make raises from here, with what, where and what to do."""

_MOST = 2000  # characters of a text that is shown; a name can have millions
_KEPT = "\n\t\u200c\u200d"  # the last two join letters: without them Persian and emoji are spelled wrong


def printable(text: str, *, most: int = _MOST) -> str:
    """Return text from outside as it can be shown to people, in a terminal, an error, a drawing.

    Whatever is no plain character stands as its escape: control characters, codes of a terminal, marks that turn the
    direction of writing, halves of a character in a file name that is not UTF-8. Line ends and tabs stay. Of text
    longer than `most` the middle is left out. A second time changes nothing.
    """
    text = _cut(text, most)
    if text.isprintable():
        return text
    return _cut("".join(c if c in _KEPT or c.isprintable() else escaped(c) for c in text), most)


def escaped(char: str) -> str:
    """Return a character as the escape that Python writes for it."""
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cut(text: str, most: int) -> str:
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


class LuthierError(Exception):
    """The base class of all errors that Luthier raises.

    Args:
        message: What was wrong, and where in the user's own data or call.
        hint: What to do about it, in one line.
        code: A stable name; `luthier explain CODE` prints its page.
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "", code: str) -> None:
        self.message, self.hint = printable(message), printable(hint)
        super().__init__(self.message)
        self.code = code

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.code)


def _rebuild(cls: type[LuthierError], message: str, hint: str, code: str) -> LuthierError:
    return cls(message, hint=hint, code=code)


class DataError(LuthierError):
    """The data cannot be read, or does not hold what was asked of it."""


class SettingError(LuthierError):
    """A setting (a Recipe, Blueprint or call argument, an option, a TOML key) is wrong or would be ignored."""


class NetworkError(LuthierError):
    """The network cannot be built, or does not fit the data."""


class BundleError(LuthierError):
    """A bundle cannot be read, or does not fit the module it is loaded into."""


class RunError(LuthierError):
    """A run's folder or checkpoint cannot be written, read or continued."""


class TrainingError(LuthierError):
    """Training cannot go on: a loss that is not finite, memory that is used up."""


class MissingPackageError(LuthierError):
    """An optional package is needed and not installed."""


class RequestError(LuthierError):
    """A request over HTTP is refused.

    Args:
        message: As in `LuthierError`.
        status: That of HTTP, 400 to 503.
        hint: As there.
        code: As there.
        where: Of a cell or row: `row`, counted from 1, and `column`.
    """

    def __init__(self, message: str, *, status: int, hint: str = "", code: str, **where: int | str) -> None:
        super().__init__(message, hint=hint, code=code)
        self.status, self.where = status, where


class CheckError(LuthierError):
    """A check found a mistake that would have raised no error."""

    exit_status = 1
