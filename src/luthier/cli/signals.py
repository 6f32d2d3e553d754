"""The signals that ask the command to stop."""

import signal


def stop_signals() -> list[signal.Signals]:
    """Return SIGTERM and, where there is one that is not ignored (as under nohup), SIGHUP: the terminal is gone."""
    hangup = getattr(signal, "SIGHUP", None)
    heeded = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGTERM, *([signal.Signals(hangup)] if hangup is not None and heeded else [])]
