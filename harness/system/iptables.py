"""The iptables backend, for hosts whose firewall is legacy: not there yet."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from harness.errors import UnavailableError
from harness.rules import Rules
from harness.system.redirect_table import BackendKind, TableState, Trial


class Iptables:
    """Satisfies Backend."""

    kind = BackendKind.IPTABLES

    def check(self) -> None:
        raise UnavailableError("the iptables backend is not built yet", "set redirect.backend to nftables")

    async def observe(self) -> TableState:
        return TableState()

    @contextlib.asynccontextmanager
    async def trial(self, new: Rules, old: Rules, seconds: float) -> AsyncIterator[Trial]:
        self.check()
        yield NotImplemented

    async def replace(self, rules: Rules) -> None:
        self.check()

    def render_text(self, rules: Rules) -> str:
        return ""

    async def changes(self) -> AsyncIterator[str]:
        self.check()
        yield ""
