"""What a command takes as an argument, for argparse."""

from __future__ import annotations

import argparse
import math


def seconds(text: str) -> float:
    """float() also takes nan, which no time ever reaches."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not found >= 0:
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number of seconds")
    return found
