"""Name and secret of this machine's registration: they outlive a restart and a reboot, and with them it is the same machine."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from harness.errors import UnreadableError, UnwritableError
from harness.reading import ABSENT
from harness.system import files

SECRET_BYTES, COPY_BYTES = 32, 4
LONGEST_ID = 256 - 1 - 2 * COPY_BYTES
"""The longest part of an instance id that leaves room for the suffix of a copy: the controller takes 256 characters."""


class KeptName:
    """`name`: empty before the controller has given one. `fault`: why a restart could not go on with it, or why this
    one could not with what was kept; None when it could.

    `copy`: of a machine that was made as a copy of another. It is added to the instance id, which is the other's too.

    What writes returns when it is on the disk, so an event loop calls it in a thread.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._writing = threading.Lock()  # a call that was cancelled may still write
        self._unusable = ""
        self.fault: UnwritableError | UnreadableError | None = None
        self._read()

    def _read(self) -> None:
        kept = {}
        self.fault = None
        self._unusable = ""
        try:
            kept = files.load_json(self._state)
        except ABSENT:
            pass
        except OSError as error:
            self.fault = UnreadableError(self._state, error)
        except ValueError as error:
            self._unusable = f"it is no JSON: {error}"
        if not isinstance(kept, dict) or not all(isinstance(kept.get(key, ""), str) for key in ("secret", "name", "copy")):
            self._unusable = "it is no registration"
            kept = {}
        self.secret = kept.get("secret", "")
        self.name = kept.get("name", "")
        self.copy = kept.get("copy", "")

    def begin(self) -> None:
        """A secret before the first call, and kept: so the next call gets the same name also when the answer to this one is lost.

        Raises UnwritableError. Raises UnreadableError while what is kept cannot be read: a new secret in its place would lose the
        name, and that this machine is a copy.
        """
        if isinstance(self.fault, UnreadableError):
            self._read()
        if isinstance(self.fault, UnreadableError) and not self.fault.foreign:
            raise self.fault
        if not self.secret:
            secret = secrets.token_urlsafe(SECRET_BYTES)
            self._write(secret, "", self.copy)
            self.secret = secret
            self.name = ""

    def given(self, secret: str, name: str) -> None:
        """By the controller: it holds also where it cannot be kept."""
        self.secret = secret
        self.name = name
        self.keep()

    def own_id(self, instance_id: str) -> str:
        return f"{instance_id[:LONGEST_ID]}-{self.copy}" if self.copy else instance_id

    def begin_as_copy(self) -> None:
        """It is another machine's: this one's next call is its first, with an instance id of its own. Raises UnwritableError."""
        copy = secrets.token_hex(COPY_BYTES)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        self._write(secret, "", copy)
        self.secret = secret
        self.name = ""
        self.copy = copy

    def keep(self) -> None:
        """On the disk, where it is not there yet. What hinders it is told by `fault`."""
        self.fault = None
        if files.read_json(self._state) != _content(self.name, self.secret, self.copy):
            try:
                self._write(self.secret, self.name, self.copy)
            except UnwritableError as error:
                self.fault = error

    def drop(self) -> None:
        """It is of no use any more: the next try is a machine's first."""
        self.secret = self.name = ""
        self.fault = None

    def forget(self) -> None:
        """Removes name and secret. That this machine is a copy is kept: otherwise it would ask for the other machine's name
        again."""
        self.drop()
        if self.copy:
            self._write("", "", self.copy)
            return
        with self._writing:
            files.remove(self._state)

    def _write(self, secret: str, name: str, copy: str) -> None:
        with self._writing:
            if self._unusable:
                files.set_aside(self._state, self._unusable)
                self._unusable = ""
            files.write_json(self._state, _content(name, secret, copy), mode=0o600, durable=True)


def _content(name: str, secret: str, copy: str) -> dict[str, str]:
    return {"name": name, "secret": secret} | ({"copy": copy} if copy else {})
