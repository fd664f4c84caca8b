"""The names of colours and faces, and what stands in for a part that failed."""

from __future__ import annotations

import re

# Paul Tol's "bright" scheme, which people with a colour vision deficiency can tell apart.
COLORS = {
    "blue": "#66CCEE",
    "grey": "#BBBBBB",
    "darkblue": "#4477AA",
    "green": "#228833",
    "yellow": "#CCBB44",
    "red": "#EE6677",
    "purple": "#AA3377",
}
SMILEYS = {
    "Grinning": "&#x1F603;",
    "Sleeping": "&#x1F634;",
    "Cursing": "&#x1F92C;",
    "Kaboom": "&#x1F92F;",
    "HeartEyes": "&#x1F60D;",
    "Neutral": "&#x1F610;",
    "RollingEyes": "&#x1F644;",
    "Screaming": "&#x1F631;",
    "Vomiting": "&#x1F92E;",
}


def color(text: str) -> str:
    """`#RRGGBB` for a name of the palette or a hex value; yellow for what is neither."""
    if re.fullmatch(r"#[0-9A-Fa-f]{6}", text):
        return text
    return COLORS.get(text.lower(), COLORS["yellow"])


def smiley(text: str) -> str:
    """The HTML entity for a name, `U+1F600`, an entity or a character; a vomiting face for what is none of them."""
    if text in SMILEYS:
        return SMILEYS[text]
    code = re.fullmatch(r"(?:U\+|&#x)([0-9A-Fa-f]{1,6});?", text, re.IGNORECASE)
    if code is not None and int(code[1], 16) <= 0x10FFFF:
        return f"&#x{code[1].upper()};"
    if len(text) == 1 and ord(text) > 0xFF:
        return f"&#x{ord(text):X};"
    return SMILEYS["Vomiting"]
