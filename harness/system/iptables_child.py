"""One look at, or one change of, our chains in one family's legacy nat table, then this process ends.

python-iptables can serve one family only in a process, crashes under threads, and caches tables, hence a process each time.
Request and answer are one JSON object each, on standard input and output; `error` and `kind` in the answer say what went wrong.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import sys
import time
from typing import Any

FAMILY, FIRST = "MESHEXP", "MESHEXP_"
"""How the chains of every workload of this machine begin, and those of its first."""
LOCK_SECONDS = float(os.environ.get("MESHEXP_XTABLES_WAIT", "5"))
_RETRY_SECONDS = 0.02
_ATTEMPTS = 5


def lock_file() -> str:
    """Where every xtables tool has it; the variable is theirs."""
    return os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")


class BusyError(Exception):
    pass


def main() -> None:
    try:
        import iptc
    except (ImportError, OSError) as error:
        answer = {"error": f"python-iptables cannot be loaded: {error}", "kind": "unavailable"}
    else:
        answer = _answer(iptc, sys.argv[1] == "6", json.load(sys.stdin))
    json.dump(answer, sys.stdout)


def _answer(iptc: Any, ipv6: bool, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return _list(iptc, ipv6, request["prefix"]) if request["op"] == "list" else _replace(iptc, ipv6, request)
    except BusyError as error:
        return {"error": str(error), "kind": "temporary"}
    except PermissionError as error:
        return {"error": str(error), "kind": "permission"}
    except (OSError, ValueError, iptc.IPTCError, iptc.XTablesError) as error:
        return {"error": str(error) or type(error).__name__, "kind": _kind(str(error))}


def _kind(message: str) -> str:
    if "Permission denied" in message or "Operation not permitted" in message:
        return "permission"
    missing = ("do you need to insmod", "does not exist", "can't find", "not supported", "No such file", "Protocol not available")
    return "unavailable" if any(part in message for part in missing) else "temporary"


def _open(iptc: Any, ipv6: bool) -> Any:
    table = iptc.Table6(iptc.Table6.NAT) if ipv6 else iptc.Table(iptc.Table.NAT)
    table.autocommit = False
    table.refresh()
    return table


def _jumps_to(rule: Any, prefix: str) -> bool:
    return bool(rule.target and rule.target.name.startswith(prefix))


def _list(iptc: Any, ipv6: bool, prefix: str) -> dict[str, Any]:
    """The chains of `prefix` with their rules, and for each built-in chain the places at which it jumps to them: how many rules
    are ahead that are no such jump of another workload's."""
    table = _open(iptc, ipv6)
    chains: dict[str, list[dict[str, Any]]] = {}
    jumps: dict[str, list[tuple[int, str]]] = {}
    for chain in table.chains:
        if chain.name.startswith(prefix):
            chains[chain.name] = [_decode(iptc, rule, ipv6) for rule in chain.rules]
        elif chain.is_builtin():
            rules = [rule for rule in chain.rules if _jumps_to(rule, prefix) or not _jumps_to(rule, FAMILY)]
            places = [(place, rule.target.name) for place, rule in enumerate(rules) if _jumps_to(rule, prefix)]
            if places:
                jumps[chain.name] = places
    return {"chains": chains, "jumps": jumps}


def _decode(iptc: Any, rule: Any, ipv6: bool) -> dict[str, Any]:
    entry: dict[str, Any] = iptc.easy.decode_iptc_rule(rule, ipv6=ipv6)
    entry.pop("counters", None)
    for key in entry.keys() & {"in-interface", "out-interface"}:
        entry[key] = entry[key].rstrip("\0")  # python-iptables leaves the end of a name of 15 letters, such as Docker's br-…
    return entry


def _replace(iptc: Any, ipv6: bool, request: dict[str, Any]) -> dict[str, Any]:
    """Our chains and jumps exactly as requested, in one commit. A commit that another one overtook is tried again."""
    for attempt in range(_ATTEMPTS):
        with _lock():
            try:
                table = _open(iptc, ipv6)
                _rewrite(iptc, table, ipv6, request)
                table.commit()
                return {}
            except iptc.IPTCError as error:
                if "Resource temporarily unavailable" not in str(error) or attempt == _ATTEMPTS - 1:
                    raise
    return {}


def _rewrite(iptc: Any, table: Any, ipv6: bool, request: dict[str, Any]) -> None:
    wanted, prefix = request["chains"], request["prefix"]
    present = {chain.name: chain for chain in table.chains}
    for chain in present.values():
        if not chain.name.startswith(prefix):
            for rule in [rule for rule in chain.rules if _jumps_to(rule, prefix)]:
                chain.delete_rule(rule)
    ours = {name: chain for name, chain in present.items() if name.startswith(prefix)}
    for chain in ours.values():
        chain.flush()
    for name in ours.keys() - wanted.keys():
        table.delete_chain(name)
    for name, entries in wanted.items():
        chain = ours[name] if name in ours else table.create_chain(name)
        for entry in entries:
            chain.append_rule(_encode(iptc, entry, ipv6))
    for builtin, entry in request["jumps"].items():
        # The first workload's take what is left by the others', which so go before them.
        ahead = itertools.takewhile(lambda rule: prefix == FIRST and _jumps_to(rule, FAMILY), present[builtin].rules)
        present[builtin].insert_rule(_encode(iptc, entry, ipv6), position=sum(1 for _ in ahead))


def _encode(iptc: Any, entry: dict[str, Any], ipv6: bool) -> Any:
    """python-iptables 1.0.1 and 1.2.0 compare one bit of each letter of an IPv6 interface's name: `lo` would match tun0."""
    rule = iptc.easy.encode_iptc_rule(entry, ipv6=ipv6)
    if ipv6:
        fields = rule.entry.ipv6
        fields.iniface_mask, fields.outiface_mask = b"\xff" * len(fields.iniface_mask), b"\xff" * len(fields.outiface_mask)
    return rule


class _lock:
    """The lock that every xtables tool takes. Where the file system is read-only no tool can take it, and neither do we."""

    def __enter__(self) -> None:
        try:
            self._descriptor = os.open(lock_file(), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self._descriptor = -1
            return
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BusyError(f"another program has held {lock_file()} for {LOCK_SECONDS:g} s") from None
                time.sleep(_RETRY_SECONDS)

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


if __name__ == "__main__":
    main()
