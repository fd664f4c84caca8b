"""What a reconciler is: three functions, and one sentence about how things stand."""

from __future__ import annotations

from typing import Protocol, TypeVar

from harness.status import Condition

Desired = TypeVar("Desired", contravariant=True)
Observed = TypeVar("Observed")
Action = TypeVar("Action")


class Reconciler(Protocol[Desired, Observed, Action]):
    """`diff` is pure; `diff(None, observed)` are the actions that leave nothing behind. `str(action)` is what `plan` prints."""

    name: str

    async def observe(self) -> Observed: ...

    def diff(self, desired: Desired | None, observed: Observed) -> tuple[Action, ...]: ...

    async def apply(self, action: Action) -> None:
        """Raises HarnessError; the cycle turns that into a condition and goes on."""

    def condition(self, desired: Desired | None, observed: Observed) -> Condition: ...
