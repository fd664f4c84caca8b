"""Since when each part stands as it does: the one place that says for how long something has been wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.status import Condition, Truth


@dataclass(frozen=True, slots=True)
class Change:
    """`before`: how the part stood until now, as a word, and for how long; empty when this is the first that is known of it."""

    condition: Condition
    before: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Standing:
    """`since`: epoch seconds by the condition's name. Another message, or other counts, are no change."""

    since: dict[str, float] = field(default_factory=dict)
    _kinds: dict[str, tuple[Truth, str]] = field(default_factory=dict)

    def take(self, conditions: tuple[Condition, ...], wall: float) -> tuple[Change, ...]:
        """What stands differently now than at the last call."""
        kinds = {condition.name: _kind(condition) for condition in conditions}
        changes = tuple(self._change(c, wall) for c in conditions if self._kinds.get(c.name) != kinds[c.name])
        kept = {name: since for name, since in self.since.items() if name in kinds}
        self.since = kept | {change.condition.name: wall for change in changes}
        self._kinds = kinds
        return changes

    def _change(self, condition: Condition, wall: float) -> Change:
        kind = self._kinds.get(condition.name)
        if kind is None:
            return Change(condition)
        truth, code = kind
        return Change(condition, code or truth.value, max(0.0, wall - self.since[condition.name]))


def _kind(condition: Condition) -> tuple[Truth, str]:
    return condition.truth, condition.problem.code if condition.problem else ""
