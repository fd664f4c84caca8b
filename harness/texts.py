"""Types of text that comes from another machine. Each has a bound, and says which characters it takes.

Such text becomes part of paths, headers, arguments, other programs' configuration, and of what a terminal shows. So none takes
control characters, and none takes half of a surrogate pair, which no file and no connection can have.
"""

from __future__ import annotations

import re
from typing import Annotated

from harness.values import Codec, is_name, parse_address, parse_domain, quoted

MOST_SHOWN = 1024
MOST_PEM = 512 * 1024
"""Of all trust anchors together: a mesh's own are a few KiB, the public ones of a Debian 220 KiB."""
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def is_label_key(text: str) -> bool:
    return _LABEL_KEY.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    return _LABEL_VALUE.fullmatch(text) is not None


def is_port_name(text: str) -> bool:
    return _PORT_NAME.fullmatch(text) is not None


def shown(text: str, most: int = MOST_SHOWN) -> str:
    """What a person can be shown of it, in one line: other characters become `?`, and the end may be cut off."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    if cut.isprintable():  # no control characters, no marks of direction, no surrogates
        return cut
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "?" for letter in cut)


def _parse_shown(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not text")
    return shown(value)


Shown = Annotated[str, Codec(_parse_shown, shown)]
"""A message for people. It is cleaned, not refused: what it goes with counts all the same."""


def visible(most: int, least: int = 0) -> Codec:
    """Text in one line, of `least` to `most` characters, each of which a terminal shows."""

    def parse(value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{quoted(value)} is not text")
        if not least <= len(value) <= most:
            raise ValueError(f"{quoted(value)} does not have {least} to {most} characters")
        if not value.isprintable():
            raise ValueError(f"{quoted(value)} has a character that cannot be shown")
        return value

    return Codec(parse, str)


def matching(pattern: str, what: str) -> Codec:
    """Text that has that form. `what` completes a sentence: `… is not WHAT`."""
    form = re.compile(pattern)

    def parse(value: object) -> str:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(f"{quoted(value)} is not {what}")
        return value

    return Codec(parse, str)


def whole(least: int, most: int) -> Codec:
    """A whole number with its bounds."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"expected a whole number, found {quoted(value)}")
        if not least <= value <= most:
            raise ValueError(f"the number is not between {least} and {most}")
        return value

    return Codec(parse, int)


def _parse_pem(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not text")
    if len(value) > MOST_PEM:
        raise ValueError(f"it has more than {MOST_PEM} characters")
    lines = value.replace("\r\n", "\n").replace("\t", " ").split("\n")
    if not all(line.isprintable() for line in lines):
        raise ValueError("it has a character that no PEM text has")
    return value


def _parse_host(value: object) -> str:
    """An address, or a name as the DNS can have it. Python raises UnicodeError for other names, and not an OSError."""
    if isinstance(value, str) and is_name(value):
        return value
    try:
        return str(parse_address(value))
    except ValueError:
        raise ValueError(f"{quoted(value)} is neither an address nor a host name (63 characters between two dots)") from None


def _parse_name(value: object) -> str:
    return "" if value == "" else parse_domain(value)


def _parse_label_key(value: object) -> str:
    if not isinstance(value, str) or not is_label_key(value):
        raise ValueError(f"{quoted(value)} is not the key of a Kubernetes label")
    return value


def _parse_label_value(value: object) -> str:
    if not isinstance(value, str) or not is_label_value(value):
        raise ValueError(f"{quoted(value)} is not the value of a Kubernetes label")
    return value


ObjectName = Annotated[str, matching(r"[a-z0-9][-.a-z0-9]{0,252}", "the name of a Kubernetes object")]
Token = Annotated[str, matching(r"[!-~]{0,256}", "at most 256 visible ASCII characters")]
Mark = Annotated[str, matching(r"[A-Za-z0-9.-]{0,80}", "at most 80 letters, digits, dots and hyphens")]
Code = Annotated[str, matching(r"[A-Za-z0-9._-]{1,64}", "a code such as not-registered")]
Protocol = Annotated[str, matching(r"[A-Z][A-Z0-9]{0,15}", "a protocol such as TCP")]
Version = Annotated[str, visible(64)]
Pem = Annotated[str, Codec(_parse_pem, str)]
Host = Annotated[str, Codec(_parse_host, str)]
Name = Annotated[str, Codec(_parse_name, str)]
"""A name that the DNS can have, or none."""
LabelKey = Annotated[str, Codec(_parse_label_key, str)]
LabelValue = Annotated[str, Codec(_parse_label_value, str)]
PortName = Annotated[str, matching(r"[A-Za-z0-9._-]{0,63}", "the name of a port")]
"""As it may be on the wire. A manifest is asked for more (`is_port_name`)."""
HeaderName = Annotated[str, matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", "the name of an HTTP header")]
HeaderValue = Annotated[str, matching(r"[ -~\t]{0,4096}", "the value of an HTTP header (one line, ASCII)")]
UrlPath = Annotated[str, visible(2048)]
