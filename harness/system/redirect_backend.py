"""Which firewall backend this machine gets: decided once, by which one already holds rules, with the reason."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass

from harness import phrases
from harness.errors import UnavailableError
from harness.system.iptables import Iptables
from harness.system.nftables import Nftables
from harness.system.redirect_table import FIRST, Backend, Marks


class Choice(enum.Enum):
    """`redirect.backend` in the configuration."""

    AUTO = "auto"
    NFTABLES = "nftables"
    IPTABLES = "iptables"


@dataclass(frozen=True, slots=True)
class Detected:
    """The backend to use, the one that must hold nothing of ours, and a sentence for `plan` and `status`."""

    backend: Backend
    other: Backend
    reason: str


def detect(choice: Choice = Choice.AUTO, nftables: Nftables | None = None, marks: Marks = FIRST) -> Detected:
    """Blocking; call it once, in the network namespace that is to be redirected.

    Raises UnavailableError when the chosen backend, or with `auto` every backend, does not work here.
    """
    nftables, iptables = nftables or Nftables(marks=marks), Iptables(marks)
    if choice is Choice.AUTO and marks.instance and (of_first := _of_first(nftables, iptables)) is not None:
        choice, reason = of_first, "the first workload's"
    elif choice is Choice.AUTO:
        choice, reason = _choose(nftables, iptables)
    else:
        reason = "chosen by redirect.backend"
    if choice is Choice.IPTABLES:
        iptables.check()
        return Detected(iptables, nftables, f"iptables (legacy): {reason}")
    nftables.check()
    return Detected(nftables, iptables, f"nftables: {reason}")


def _of_first(nftables: Nftables, iptables: Iptables) -> Choice | None:
    """Where the first workload's rules are, if there are any: one backend's are always ahead of the other's."""
    for choice, backend in ((Choice.NFTABLES, nftables), (Choice.IPTABLES, iptables)):
        with contextlib.suppress(UnavailableError):
            if FIRST in backend.marks():
                return choice
    return None


def _choose(nftables: Nftables, iptables: Iptables) -> tuple[Choice, str]:
    try:
        others = nftables.other_nat_tables()
    except UnavailableError as error:
        return Choice.IPTABLES, f"nftables does not work here ({error.message})"
    entries = iptables.entries()
    if not entries:
        in_use = f", and {', '.join(others)} in use" if others else ""
        return Choice.NFTABLES, f"the legacy nat tables are empty{in_use}"
    if others:
        return Choice.NFTABLES, f"legacy nat tables and {', '.join(others)} are both in use"
    try:
        iptables.check()
    except UnavailableError as error:
        return Choice.NFTABLES, f"the legacy nat tables are in use, but {error.message}"
    return Choice.IPTABLES, f"only the legacy nat tables are in use ({phrases.counted(entries, 'entry', 'entries')})"
