"""The level of a line of linkerd2-proxy's log, plain or JSON."""

from __future__ import annotations

import re

_LEVEL = re.compile(r'(?:\[ *[\d.]+m?s\] +|\{"timestamp":"[^"]*","level":")(WARN|ERROR)\b')
_NAMES = {"WARN": "warning", "ERROR": "error"}


def level(line: str) -> str:
    """`warning`, `error`, else `info`: what the proxy's own filter lets through is not to be lost in ours."""
    found = _LEVEL.match(line)
    return _NAMES[found[1]] if found else "info"
