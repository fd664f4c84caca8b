"""The nftables backend: a private table `inet meshexp`, replaced in one transaction through libnftables in this process.

libnftables by ctypes rather than python3-nftables, because that one exists as a distribution's package only (it is not on PyPI,
so a virtual environment has none), and because the few functions below are the whole of the stable C interface that it wraps. A
process `nft` would cost several times as much as the transaction itself.

The library opens its netlink socket when its context is made, and the socket stays in the network namespace in which it was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, PermissionError_, TemporaryError, UnavailableError
from harness.rules import Rules
from harness.system import nfnetlink, nftables_text
from harness.system.redirect_table import FIRST, BackendKind, Marks, TableState, marks_of_table

LIBRARY = "libnftables.so.1"
_JSON_OUTPUT = 1 << 4  # NFT_CTX_OUTPUT_JSON
_TRY = """\
table inet meshexp-check {
  chain c {
    type nat hook prerouting priority -100;
    fib daddr type local tcp dport 9 redirect to :9
  }
  chain g {
    type filter hook output priority 0;
    ct status dnat return
  }
}
"""


class Library:
    """One libnftables context. Blocking, and safe to call from any thread, one call at a time."""

    def __init__(self, path: str = LIBRARY) -> None:
        """Raises UnavailableError when the library or the kernel's nf_tables is missing."""
        _need_netlink()
        try:
            self._library = ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            raise UnavailableError(f"cannot load {path}: {error}", "install the package libnftables1 (nftables)") from None
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, name).restype = ctypes.c_char_p
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._lock = threading.Lock()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise UnavailableError("libnftables cannot reach the kernel's nf_tables")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str, *, as_json: bool = False, dry: bool = False) -> str:
        """The output of one nft transaction; `dry`: the kernel judges it and forgets it. Raises HarnessError with its reason."""
        with self._lock:
            self._library.nft_ctx_set_dry_run(self._context, dry)
            self._library.nft_ctx_output_set_flags(self._context, _JSON_OUTPUT if as_json else 0)
            code = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            output = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode()
            reason = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode()
        if code:
            raise _error(reason.strip())
        return output

    def close(self) -> None:
        with self._lock:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _need_netlink() -> None:
    """Tried first, because libnftables ends the whole process when it cannot open its socket."""
    try:
        nfnetlink.open_socket().close()
    except OSError as error:
        raise NotInKernelError(f"this kernel has no netfilter netlink: {error.strerror}") from None


class NotInKernelError(UnavailableError):
    """The kernel cannot have such rules, and so has none."""


class _NotThereError(HarnessError):
    """What was named does not exist."""


def _error(reason: str) -> HarnessError:
    first = reason.splitlines()[0].removeprefix("Error: ") if reason else "no reason given"
    if "No such file or directory" in first:
        return _NotThereError(f"nftables: {first}")
    if "Operation not permitted" in reason:
        return PermissionError_(f"nftables: {first}", "CAP_NET_ADMIN is needed")
    if "not supported" in reason or "Protocol wrong type" in reason:
        return NotInKernelError(f"nftables: {first}", "this kernel lacks nf_tables or its nat, redir or fib part")
    return TemporaryError(f"nftables: {first}")


class Nftables:
    """Satisfies Backend. A machine without libnftables or nf_tables holds no rules of ours there."""

    kind = BackendKind.NFTABLES

    def __init__(self, library: str = LIBRARY, marks: Marks = FIRST) -> None:
        self._path, self._marks = library, marks
        self._library: Library | None = None
        self._opening = threading.Lock()

    async def run(self, text: str, *, as_json: bool = False) -> str:
        return await asyncio.to_thread(self._run, text, as_json)

    def check(self) -> None:
        """Blocking. Raises UnavailableError without libnftables or nf_tables."""
        self._run("list tables", as_json=True)

    async def listing(self) -> list[dict[str, Any]]:
        """All rules of this network namespace (libnftables-json(5)). Raises as `check`."""
        found: list[dict[str, Any]] = json.loads(await self.run("list ruleset", as_json=True))["nftables"]
        return found

    async def try_redirect(self) -> None:
        """Whether the kernel would take rules such as ours. Raises UnavailableError with what it lacks."""
        await asyncio.to_thread(self._run, _TRY, False, True)

    def other_nat_tables(self) -> tuple[str, ...]:
        """The nftables tables, iptables-nft's among them, that have a nat chain and are not ours. Blocking. Raises as `check`."""
        chains = [item["chain"] for item in json.loads(self._run("list chains", as_json=True))["nftables"] if "chain" in item]
        others = [c for c in chains if c.get("type") == "nat" and marks_of_table(c["table"]) is None]
        return tuple(sorted({f"table {c['family']} {c['table']}" for c in others}))

    def marks(self) -> frozenset[Marks]:
        """Of whom there are tables. Blocking. Raises as `check`."""
        listing = json.loads(self._run("list tables inet", as_json=True))["nftables"]
        names = [item["table"]["name"] for item in listing if "table" in item]
        return frozenset(found for name in names if (found := marks_of_table(name)) is not None)

    def _run(self, text: str, as_json: bool, dry: bool = False) -> str:
        with self._opening:
            if self._library is None:
                self._library = Library(self._path)
        return self._library.run(text, as_json=as_json, dry=dry)

    async def observe(self) -> TableState:
        try:
            listing = await self.run(f"list table inet {self._marks.table}", as_json=True)
        except (_NotThereError, UnavailableError):
            return TableState()
        try:
            return nftables_text.parse_listing(json.loads(listing), self._marks)
        except ValueError as error:
            raise TemporaryError(f"nftables: {error}", "`nft list ruleset` shows the rules") from None

    @contextlib.asynccontextmanager
    async def trial(self, new: Rules, old: Rules, seconds: float, record: Path | None = None) -> AsyncIterator[NftablesTrial]:
        await self.run(nftables_text.trial_text(new, old, seconds, self._marks))
        trial = NftablesTrial(self, nftables_text.confirm_text(new, self._marks))
        try:
            yield trial
        finally:
            if not trial.confirmed:
                await asyncio.shield(self.replace(old))

    async def replace(self, rules: Rules) -> None:
        await self.run(nftables_text.replace_text(rules, self._marks))

    def render_text(self, rules: Rules) -> str:
        return nftables_text.replace_text(rules, self._marks)

    async def changes(self) -> AsyncIterator[str]:
        loop, watch = asyncio.get_running_loop(), nfnetlink.TableWatch(self._marks.table)
        with nfnetlink.nftables_events() as listener:
            while True:
                try:
                    data = await loop.sock_recv(listener, nfnetlink.RECEIVE_BYTES)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    yield "more nftables changes than could be told apart"
                    continue
                for change in watch.feed(data):
                    yield str(change)


class NftablesTrial:
    """Satisfies Trial. Too late a confirmation is none: the element that arms the new rules must still be there."""

    def __init__(self, backend: Nftables, confirmation: str) -> None:
        self._backend = backend
        self._confirmation = confirmation
        self.confirmed = False

    async def confirm(self) -> None:
        try:
            await self._backend.run(self._confirmation)
        except _NotThereError:
            raise TemporaryError("the new redirect rules were not confirmed in time; the ones before them are back") from None
        self.confirmed = True
