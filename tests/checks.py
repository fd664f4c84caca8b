"""What `meshexp check -o json` says."""

from __future__ import annotations

import json

Check = dict[str, str]


def checks(text: str) -> list[Check]:
    """In their order, whatever their category."""
    return [one for category in json.loads(text)["categories"] for one in category["checks"]]


def by_description(text: str) -> dict[str, Check]:
    return {one["description"]: one for one in checks(text)}


def beginning(text: str, words: str) -> Check:
    """The first one whose description begins with these words."""
    return next(one for one in checks(text) if one["description"].startswith(words))
