"""Name and secret of this machine's registration: they outlive a restart and a reboot, and with them it is the same machine."""

from __future__ import annotations

import secrets
from pathlib import Path

from harness.errors import UnwritableError
from harness.system import files

SECRET_BYTES = 32


class KeptName:
    """`name`: empty before the controller has given one. `fault`: why a restart could not go on with it; None when it could."""

    def __init__(self, state: Path) -> None:
        self._state = state
        kept = files.read_json(state)
        self.secret, self.name = str(kept.get("secret") or ""), str(kept.get("name") or "")
        self.fault: UnwritableError | None = None

    def begin(self) -> None:
        """A secret before the first call, and kept: so the next call gets the same name also when the answer to this one is lost.
        Raises UnwritableError."""
        if not self.secret:
            secret = secrets.token_urlsafe(SECRET_BYTES)
            self._write(secret, "")
            self.secret, self.name = secret, ""

    def given(self, secret: str, name: str) -> None:
        """By the controller: it holds also where it cannot be kept."""
        self.secret, self.name = secret, name
        self.keep()

    def keep(self) -> None:
        """On the disk, where it is not there yet. What hinders it is told by `fault`."""
        self.fault = None
        if files.read_json(self._state) != {"name": self.name, "secret": self.secret}:
            try:
                self._write(self.secret, self.name)
            except UnwritableError as error:
                self.fault = error

    def drop(self) -> None:
        """It is of no use any more: the next try is a machine's first."""
        self.secret = self.name = ""
        self.fault = None

    def forget(self) -> None:
        self.drop()
        files.remove(self._state)

    def _write(self, secret: str, name: str) -> None:
        files.write_json(self._state, {"name": name, "secret": secret}, mode=0o600)
