"""What both firewall backends have in common: the protocol, and what they find of ours in the kernel."""

from __future__ import annotations

import enum
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import TemporaryError
from harness.rules import Rules


class BackendKind(enum.Enum):
    NFTABLES = "nftables"
    IPTABLES = "iptables"


@dataclass(frozen=True, slots=True)
class Marks:
    """By what the rules of one of the machine's workloads are known; `instance` is empty for the first."""

    instance: str = ""

    @property
    def table(self) -> str:
        """In nftables, of family inet."""
        return f"{TABLE}-{self.instance}" if self.instance else TABLE

    @property
    def prefix(self) -> str:
        """Of the chains in legacy iptables."""
        return f"{CHAIN}-{self.instance}_" if self.instance else f"{CHAIN}_"


TABLE, CHAIN = "meshexp", "MESHEXP"
FIRST = Marks()
_INSTANCE = "-([a-z0-9-]+)"


def marks_of_table(name: str) -> Marks | None:
    """None for a table that is no workload's of this machine."""
    found = re.fullmatch(f"{TABLE}(?:{_INSTANCE})?", name)
    return Marks(found[1] or "") if found else None


def marks_in(text: bytes) -> frozenset[Marks]:
    """Those of the chains that are named in it."""
    return frozenset(Marks((name or b"").decode()) for name in re.findall(f"{CHAIN}(?:{_INSTANCE})?_".encode(), text))


@dataclass(frozen=True, slots=True)
class TableState:
    """Everything of ours that one backend finds in the kernel.

    `strange` are rules, chains or sets inside our own table that no record describes: somebody edited it.
    """

    present: bool = False
    rules: Rules = ()
    strange: tuple[str, ...] = ()
    on_trial: bool = False
    """A change that nobody confirmed; `rules` are then those to which the kernel returns."""


class NotRestoredError(TemporaryError):
    """A trial has ended, and the rules before it could not be put back: the new ones are in force, and may not work."""

    def __init__(self, came: str, hint: str = "") -> None:
        super().__init__(f"the redirect rules before a change that failed could not be put back: {came}", hint)


class Trial(Protocol):
    async def confirm(self) -> None:
        """The new rules stay. Raises HarnessError; TemporaryError if the time was over and the old rules are back."""


class Backend(Protocol):
    kind: BackendKind

    async def observe(self) -> TableState:
        """Raises HarnessError. A backend that this machine does not have finds nothing."""

    def trial(self, new: Rules, old: Rules, seconds: float, record: Path | None = None) -> AbstractAsyncContextManager[Trial]:
        """`new` in force at once, and after `seconds` `old` again, whoever dies meanwhile, unless confirmed.

        Leaving the context without a confirmation brings `old` back at once. `record`: a file in which a backend whose trial is
        not ended by the kernel itself keeps `old` meanwhile. Raises HarnessError; NotRestoredError when `old` is not back.
        """

    async def replace(self, rules: Rules) -> None:
        """`rules` and nothing else of ours, in one step that no connection falls through; none at all removes every trace."""

    def render_text(self, rules: Rules) -> str:
        """What `replace` does, as input for this backend's own tool."""

    def changes(self) -> AsyncIterator[str]:
        """A sentence whenever somebody, this process included, may have changed our rules; never ends. Raises OSError."""
