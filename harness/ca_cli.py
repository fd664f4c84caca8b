"""`meshexp ca issue|renew`, on the administrator's machine: a machine's own intermediate CA, from the trust anchor's key."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import Any

from harness import reading, times
from harness.arguments import output
from harness.errors import UnavailableError, UsageError
from harness.terminal import Answer
from harness.values import parse_spiffe_id

DAYS = 90.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = subparsers.add_parser(
        "ca",
        help="make or renew a machine's intermediate CA, on the admin's machine",
        description="The intermediate CAs that machines sign their own identities with. Runs where the trust anchor's key is.",
    )
    what = verb.add_subparsers(dest="what", metavar="WHAT", required=True)
    issue = what.add_parser("issue", help="a new key and a certificate for it")
    issue.add_argument("--name", required=True, metavar="NAME", help="of the machine; it stands in the certificate")
    issue.add_argument(
        "--spiffe-id", default="", metavar="ID", help="the only one that the controller takes from this CA; any if unset"
    )
    renew = what.add_parser(
        "renew", help="a new certificate for the same name, key and SPIFFE ID; of the folder only ca.crt is needed"
    )
    for command in (issue, renew):
        command.add_argument("--trust-anchor", required=True, type=Path, metavar="FILE", help="Linkerd's trust anchor, PEM")
        command.add_argument("--key", required=True, type=Path, metavar="FILE", help="its key")
        command.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for ca.crt, and ca.key of a new one")
        output(command)
        command.add_argument("--days", type=float, default=DAYS, metavar="N", help=f"how long it lasts (default {DAYS:.0f})")
    return verb


def run(options: argparse.Namespace) -> int:
    if options.days <= 0:
        raise UsageError("--days must be more than 0")
    try:
        from harness import ca
    except ImportError as error:
        raise UnavailableError(f"`meshexp ca` needs a library: {error}", "install python3-cryptography") from None
    from harness.system import files

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    anchor = ca.load_anchor(options.trust_anchor, options.key)
    certificate, key = options.out / "ca.crt", options.out / "ca.key"
    if options.what == "renew":
        name, public_key, before = ca.read_intermediate(certificate, anchor)
        pinned = ca.pinned_to(before) or ""
    else:
        name = _name(options.name)
        pinned = _spiffe_id(options.spiffe_id)
        for path in (certificate, key):
            if path.exists():
                raise UsageError(f"{path} is there already", "`meshexp ca renew` keeps its key; or give another folder")
        private = ca.new_key()
        public_key = private.public_key()
        files.write(key, ca.key_pem(private), mode=0o600, durable=True)
    made = ca.issue(anchor, name, public_key, options.days, now, pinned)
    files.write(certificate, ca.certificate_pem(made), mode=0o644, durable=True)
    files.write(options.out / "trust-anchors.pem", reading.text(options.trust_anchor), mode=0o644, durable=True)
    answer = Answer(options.output)
    issued = options.what == "issue"
    sooner = ", when the trust anchor ends too" if ca.ends(made) < now + datetime.timedelta(days=options.days) else ""
    answer.say(f"{certificate}: {name}, until {times.moment(ca.ends(made).timestamp())}{sooner}")
    if issued:
        answer.say(f"copy ca.crt and ca.key to /etc/meshexp/spire/ on {name} (mode 0600), trust-anchors.pem to /etc/meshexp/;")
        answer.say(f"then {key} is not needed here any more: a renewal needs only the certificate")
    else:
        answer.say(f"copy ca.crt over /etc/meshexp/spire/ca.crt on {name}; it is read again without a restart")
    facts = {"name": name, "certificate": str(certificate), "key": str(key) if issued else None}
    return answer.end(0, **facts, until=ca.ends(made).isoformat())


def _spiffe_id(text: str) -> str:
    try:
        return str(parse_spiffe_id(text)) if text else ""
    except ValueError as error:
        raise UsageError(f"--spiffe-id: {error}") from None


def _name(text: str) -> str:
    """A common name has at most 64 characters (RFC 5280, appendix A)."""
    if not 1 <= len(text) <= 64 or not text.isprintable():
        raise UsageError(f"--name {text!r} must have 1 to 64 printable characters")
    return text
