"""structlog set-up: journal fields under systemd, colour on a terminal, JSON lines elsewhere; secrets never pass."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from harness import terminal, times
from harness.config.schema import LogFormat, LogLevel

_SECRET_KEYS = ("secret", "token", "key_der", "private_key", "password")


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in _SECRET_KEYS):
            event[key] = "[redacted]"
    return event


def _tame(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text from outside can neither control the terminal nor look like a line of ours. The lines of a traceback are indented."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = terminal.harmless(value).replace("\n", "\n  " if key == "exception" else "\\n")
    return event


def set_up(level: LogLevel, format_: LogFormat, journal: Callable[[dict[str, Any]], None] | None = None) -> None:
    """`journal`: sends one event to journald; used for format auto when it is given."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        redact,
    ]
    if format_ is LogFormat.AUTO and journal is not None:
        processors += [structlog.processors.format_exc_info, _to_journal(journal)]
    elif format_ is LogFormat.CONSOLE or (format_ is LogFormat.AUTO and sys.stderr.isatty()):
        processors += [
            structlog.processors.TimeStamper(fmt=times.FORMAT_IN_LOG, utc=True),
            structlog.processors.format_exc_info,
            _tame,
            structlog.dev.ConsoleRenderer(colors=terminal.escapes(sys.stderr), exception_formatter=structlog.dev.plain_traceback),
        ]
    else:
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", key="ts"),
            structlog.processors.EventRenamer("msg"),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.value.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _to_journal(send: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    def processor(_: Any, __: str, event: MutableMapping[str, Any]) -> Any:
        send(dict(event))
        raise structlog.DropEvent

    return processor
