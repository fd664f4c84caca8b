"""`meshexp anchors`: the trust anchors of this machine, and those that the controller tells; `accept` takes them by hand."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import paths, phrases, terminal, times
from harness.arguments import output
from harness.errors import UnavailableError, UnreadableError, UsageError
from harness.paths import Paths
from harness.terminal import Answer

if TYPE_CHECKING:
    from harness.config import schema
    from harness.system.spire_certificate import Certificate

_SHA256 = re.compile(r"[0-9a-f]{64}")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    text = "the trust anchors in force, those of the file, and those that the controller tells"
    verb: argparse.ArgumentParser = subparsers.add_parser("anchors", help=text, description=f"{text[0].upper()}{text[1:]}.")
    output(verb)
    what = verb.add_subparsers(dest="what", metavar="WHAT")
    accept = what.add_parser(
        "accept",
        help="write told anchors into the file of the trust anchors, by their fingerprints",
        description="Writes those of the told trust anchors that have these fingerprints, and no others, into the file"
        " controller.trust_anchors. A daemon that runs reads it at once.",
    )
    text = "SHA-256 of the certificate in hexadecimal, as `meshexp anchors` prints it; colons may be in it"
    accept.add_argument("fingerprints", nargs="+", metavar="FINGERPRINT", help=text)
    output(accept)
    return verb


def run(options: argparse.Namespace) -> int:
    where = paths.from_environment()
    if options.what == "accept":
        return accept(where, options.fingerprints, Answer(options.output))
    return show(where, options.output)


@dataclass(frozen=True, slots=True)
class Known:
    """PEM texts. `why`: what the daemon says of the told ones; empty where it says nothing."""

    config: schema.Config
    file: str = field(repr=False)
    in_force: str = field(repr=False)
    told: str = field(repr=False)
    unread: str = ""
    """Why there is nothing of the file."""
    why: str = ""
    problem: str | None = None
    hint: str = ""


def _known(where: Paths) -> Known:
    """Raises ConfigError, and UnreadableError for what may be there."""
    from harness import anchors
    from harness.config import load
    from harness.daemon import anchors_kept
    from harness.system import files, snapshot_reader

    config = load.of_member(where, os.environ)
    file = ""
    unread = ""
    try:
        file = files.bounded(Path(config.controller.trust_anchors)).decode("ascii", "replace")
    except UnreadableError as error:
        unread = error.message
    told = anchors_kept.told(where)
    adopted = anchors_kept.read(config, where)
    conditions = snapshot_reader.read(where.status, where.instance).get("conditions", [])
    said: dict[str, Any] = next((one for one in conditions if one["name"] == "Anchors"), {})
    return Known(
        config, file, anchors.in_force(file, adopted), told, unread,
        said.get("message") or "", said.get("problem"), said.get("hint") or "",
    )  # fmt: skip


def show(where: Paths, kind: str = "text") -> int:
    known = _known(where)
    sets = {"in_force": known.in_force, "file": known.file, "told": known.told}
    found = {name: _read(pem) for name, pem in sets.items()}
    controller = known.config.controller
    if kind == "json":
        record = {name: [_record(one) for one in certificates] for name, certificates in found.items()}
        terminal.say_json({
            "mode": controller.anchors.value, "path": controller.trust_anchors, **record,
            "message": known.why or known.unread or None, "problem": known.problem, "hint": known.hint or None,
        })  # fmt: skip
        return 0
    titles = {
        "in_force": f"in force (controller.anchors: {controller.anchors.value})",
        "file": f"in {controller.trust_anchors}",
        "told": "told by the controller",
    }
    for name, certificates in found.items():
        terminal.say(terminal.harmless(f"{titles[name]}:"))
        for one in certificates:
            terminal.say(terminal.harmless(f"  {_line(one)}"))
        if not certificates:
            terminal.say(terminal.harmless(f"  {_nothing(name, sets[name], known)}"))
    if known.why:
        terminal.say(terminal.harmless(f"{known.problem}: {known.why}"))
        terminal.say(terminal.harmless(f"  hint: {known.hint}"))
    return 0


def _nothing(name: str, pem: str, known: Known) -> str:
    if pem:
        return "nothing that can be read as certificates"
    if name == "told":
        return "none: it has told nothing yet, or leaves them to the file"
    return known.unread or "none"


def _read(pem: str) -> tuple[Certificate, ...]:
    from harness.system import spire_certificate

    try:
        return spire_certificate.read_pem(pem.encode())
    except ValueError:
        return ()


def _record(one: Certificate) -> dict[str, str]:
    from harness.system import spire_certificate

    return {
        "fingerprint": _fingerprint(one),
        "subject": spire_certificate.name_text(one.subject),
        "begins": times.moment(one.not_before),
        "ends": times.moment(one.not_after),
    }


def _line(one: Certificate) -> str:
    told = _record(one)
    return f"{told['fingerprint']}  {told['subject']}, ends {told['ends']}"


def _fingerprint(one: Certificate) -> str:
    return hashlib.sha256(one.data).hexdigest()


def accept(where: Paths, fingerprints: Sequence[str], answer: Answer) -> int:
    """The exit code; raises HarnessError when nothing was written."""
    from harness.system import files, privileges, spire_certificate

    privileges.root("anchors accept")
    wanted = dict.fromkeys(_normal(text) for text in fingerprints)
    known = _known(where)
    told = {_fingerprint(one): one for one in _read(known.told)}
    instance = f" --instance {where.instance}" if where.instance else ""
    if not told:
        raise UnavailableError("the controller has told no trust anchors", f"`meshexp status{instance}` says how far it is")
    if missing := [text for text in wanted if text not in told]:
        raise UsageError(
            f"the controller does not tell {', '.join(missing)}; nothing was written",
            f"it tells {', '.join(told)}; `meshexp anchors{instance}` shows them",
        )
    path = Path(known.config.controller.trust_anchors)
    before = {_fingerprint(one) for one in _read(known.file)}
    files.write(path, spire_certificate.to_pem(told[text] for text in wanted), mode=0o644, durable=True)
    answer.say(f"{path} has {phrases.counted(len(wanted), 'trust anchor')}: {', '.join(wanted)}")
    if gone := sorted(before - wanted.keys()):
        answer.say(f"no longer in it: {', '.join(gone)}")
    if not _wake(where):
        answer.say("no daemon runs; the next one reads it")
    return answer.end(0, path=str(path), accepted=list(wanted), removed=gone)


def _normal(text: str) -> str:
    found = text.removeprefix("sha256:").replace(":", "").lower()
    if not _SHA256.fullmatch(found):
        raise UsageError(f"{text!r:.80} is no SHA-256 fingerprint", "64 hexadecimal digits, as `meshexp anchors` prints them")
    return found


def _wake(where: Paths) -> bool:
    """Has the daemon look at the file now, and not at its next look."""
    from harness.system import procfs, snapshot_reader

    status = snapshot_reader.read(where.status, where.instance)
    return "reported" in status and procfs.of_status(status).send(signal.SIGUSR2)
