"""The exception tree: every mistake a user can make raises from here, with what, where and what to do."""


class LuthierError(Exception):
    """The base of all errors that Luthier raises on purpose.

    Args:
        message: What was wrong, and where in the user's own data or call.
        hint: What to do about it, in one line.
        code: A stable name; `luthier explain CODE` prints its page.
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "", code: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
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


class CheckError(LuthierError):
    """A check found a mistake that would have raised no error."""

    exit_status = 1
