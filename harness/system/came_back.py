"""What came back of a call, in words: the reason that the kernel, TLS or the resolver gave, out of what a library made of it.

httpx says "All connection attempts failed", asyncio "Connect call failed ('127.0.0.1', 8000)". The reason is in the errors that
caused these. Only this module reads it from them.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from harness import phrases, trust

_NUMBER = re.compile(r"\[Errno (\d+)\]")
MOST_CHARACTERS = 200


def words(error: BaseException) -> str:
    """Without what was tried, which the caller knows. Not longer than a line."""
    causes = tuple(_causes(error))
    if isinstance(error, httpx.ConnectTimeout):
        return f"{phrases.NO_CONNECTION} in time"
    said = list(dict.fromkeys(text for cause in causes if (text := _reason(cause))))
    if said:
        return said[0]
    if isinstance(error, httpx.ProtocolError):
        return _no_http(str(error))
    return (str(error) or type(error).__name__)[:MOST_CHARACTERS]


def within(error: BaseException, connect: float, answer: float) -> str:
    """As `words`, with the time that there was, where it was over."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"{phrases.NO_CONNECTION} within {connect:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"{phrases.NO_ANSWER} within {answer:g} s"
    return words(error)


def distrust(error: BaseException) -> ssl.SSLError | None:
    """The refusal of a certificate, ours or the peer's (trust.of); None when that is not what happened."""
    return next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError) and trust.of(cause)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, the outermost first."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        group: Any = getattr(cause, "exceptions", ())  # one per address that was tried
        above = cause.__cause__ or cause.__context__
        waiting += [one for one in (*group, above) if isinstance(one, BaseException)]


def _reason(cause: BaseException) -> str:
    """Empty when this is not what happened, but only what a library made of it."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError) and (said := trust.alert(cause)):
        return f"it refuses this machine's certificate: {said}"
    if isinstance(cause, ssl.SSLError):
        return f"it {phrases.NO_TLS} that is understood ({(cause.reason or 'the connection ended').lower().replace('_', ' ')})"
    if isinstance(cause, socket.gaierror):
        return f"the name {phrases.UNRESOLVED} ({cause.strerror})"
    if isinstance(cause, TimeoutError) and not cause.errno:  # with a number it is the kernel's
        return f"{phrases.NO_ANSWER} in time"
    if not isinstance(cause, OSError):
        return ""
    number = cause.errno or next((int(found) for found in _NUMBER.findall(str(cause))), 0)
    return _lower(os.strerror(number)) if number else ""


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _no_http(text: str) -> str:
    if "disconnected" in text.lower():
        return f"it {phrases.DISCONNECTED} without an answer"
    return f"what it answers {phrases.NOT_HTTP} ({text[:MOST_CHARACTERS]})"
