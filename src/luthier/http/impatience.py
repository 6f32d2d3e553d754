"""What uvicorn lacks: an end to waiting for clients that connect and send no whole request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEADERS_S = 10.0


class Impatient(HttpToolsProtocol):
    """Close a connection whose first request has not begun after some seconds: its headers come too slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(_HEADERS_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        begun: Any = self.cycle  # which its own type says is always there
        if begun is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> Any:
        """Stop waiting."""
        self._waiting.cancel()
        super().connection_lost(exc)
