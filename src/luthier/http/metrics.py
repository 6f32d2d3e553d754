"""Figures for Prometheus, summed over all workers."""

from __future__ import annotations

import os
from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which workers share their figures; it is read when this module is imported."""

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_requests = Counter("luthier_requests", "Requests, by route and status", ["route", "status"])
_seconds = Histogram("luthier_request_seconds", "Time from request to answer, by route", ["route"], buckets=_BUCKETS)
_rows = Counter("luthier_rows", "Rows answered, by model", ["model"])
_warnings = Counter("luthier_warnings", "Warnings on cells unlike those of training rows, by model", ["model"])


@cache
def _of(route: str, status: int) -> tuple[Counter, Histogram]:
    return _requests.labels(route, str(status)), _seconds.labels(route)


@cache
def _of_model(model: str) -> tuple[Counter, Counter]:
    return _rows.labels(model), _warnings.labels(model)


def count_request(route: str, status: int, seconds: float) -> None:
    """Count one request."""
    requests, times = _of(route, status)
    requests.inc()
    times.observe(seconds)


def count_rows(model: str, rows: int, warnings: int) -> None:
    """Count the rows of one answer, and the warnings on them."""
    answered, warned = _of_model(model)
    answered.inc(rows)
    if warnings:
        warned.inc(warnings)


def written() -> tuple[bytes, bytes]:
    """Return all figures as Prometheus reads them, and their media type."""
    registry = REGISTRY
    if FOLDER in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode()
