"""What a request may have; by itself, as it is known before the packages of a server are."""

from dataclasses import dataclass

HEADERS_S = 10.0
"""Within which the head of a request comes, or the connection is closed."""
IDLE_S = 2.0
"""That idle connections are kept open after the last request when the server stops."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may have.

    Attributes:
        max_body_bytes: Of its body.
        max_rows: Of a table, or images.
        max_pixels: Of an image.
        max_waiting: Requests that wait for the thread that computes.
        timeout_s: For its body to come, and again for its answer.
        gather_s: How long rows of several requests are gathered for one call of the network; None: they are not.
        notice_s: How long requests are taken after SIGTERM, while /health/ready says 503.
    """

    max_body_bytes: int = 16 << 20
    max_rows: int = 10_000
    max_pixels: int = 32_000_000
    max_waiting: int = 256
    timeout_s: float = 30.0
    gather_s: float | None = None
    notice_s: float = 1.0
