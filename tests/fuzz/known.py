"""Readers with a fault that is known and not repaired yet. They are not fuzzed meanwhile: an input in found/ shows the fault.

The list only shrinks: a reader whose inputs in found/ all pass must leave it, or the tests fail.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {}
"""The reason, by target."""
