"""Operational events on standard error, one JSON object a line; standard output belongs to people."""

from __future__ import annotations

import logging
import sys

import structlog


def configure() -> None:
    """For our own events; libraries' warnings go the same way, as plain lines."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
