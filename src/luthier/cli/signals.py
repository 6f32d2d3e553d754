"""The signals that ask the command to stop."""

import os
import signal
import threading
from types import FrameType

heeded: list[int] = []  # signals that became a KeyboardInterrupt, which compiled code may turn into an error of its own


def stop_signals() -> list[signal.Signals]:
    """Return SIGTERM and, where there is one that is not ignored (as under nohup), SIGHUP: the terminal is gone."""
    hangup = getattr(signal, "SIGHUP", None)
    heeded = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGTERM, *([signal.Signals(hangup)] if hangup is not None and heeded else [])]


def interrupt(number: int, frame: FrameType | None) -> None:
    """Stop, but not within an import: that would leave a module half made, and some packages swallow it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    heeded.append(number)
    raise KeyboardInterrupt(signal.Signals(number))
