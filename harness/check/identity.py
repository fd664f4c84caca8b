"""Who this machine is: trust anchors, the certificate that it signs under, SPIRE's programs, and the SVID that its proxy gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import check_problems as problems
from harness import phrases, times, trust
from harness.check.context import UNCONFIGURED, Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried, reasons_untried
from harness.config import schema
from harness.denied import is_denied
from harness.errors import HarnessError, UnavailableError
from harness.problems import (
    IDENTITY_CA_EXPIRING,
    IDENTITY_CA_UNUSABLE,
    IDENTITY_EXPIRING,
    IDENTITY_NOT_ISSUED,
    IDENTITY_ROOT_KEY,
    IDENTITY_SOCKET_MISSING,
    SPIRE_FAILING,
    Problem,
)
from harness.system import own_svid, process, spire
from harness.system import spire_certificate as certificates
from harness.system.spire_certificate import Certificate
from harness.system.workload_api import Failed, Frame
from harness.system.workload_api_client import FailureKind

NAME = "meshexp-identity"
SVID_SECONDS = 3.0
ANCHOR_SECONDS = 60 * 86400.0


@dataclass(frozen=True, slots=True)
class Facts:
    """`anchors_error` and `signing_error`: why they cannot be used. `signing` is None when it cannot."""

    anchors: tuple[Certificate, ...] | Untried = NOT_LOOKED
    anchors_error: str = ""
    signing: Certificate | Untried | None = NOT_LOOKED
    signing_error: str = ""
    programs_missing: tuple[str | Untried, ...] | Untried = NOT_LOOKED
    """Why each of them that cannot be used is not; Untried when this process may not look."""


async def gather(context: Context) -> Facts:
    anchors, anchors_error = _anchors(context)
    signing, signing_error = await _signing(context, () if isinstance(anchors, Untried) else anchors)
    return Facts(anchors, anchors_error, signing, signing_error, _missing(context))


def _anchors(context: Context) -> tuple[tuple[Certificate, ...] | Untried, str]:
    path = context.config.controller.trust_anchors
    if not context.root and is_denied(path):
        return needs_root(f"{path} cannot be read by this user"), ""
    if context.anchors_unread:
        return (), context.anchors_unread
    try:
        return certificates.read_pem(certificates.read_file(path, "the trust anchors")), ""
    except (UnavailableError, ValueError) as error:
        return (), f"{path}: {error}"


async def _signing(context: Context, anchors: tuple[Certificate, ...]) -> tuple[Certificate | Untried | None, str]:
    identity = context.config.identity
    if identity.mode is not schema.IdentityMode.LOCAL:
        return None, ""
    if not context.root:
        return needs_root("its key is root's alone"), ""
    local = identity.local
    try:
        chain = certificates.read_pem(certificates.read_file(local.ca_cert, "the signing certificate"))
        certificates.check_signing(chain, anchors, context.wall)
        if not chain[0].root:
            files = Path(local.ca_cert), Path(context.config.controller.trust_anchors), Path(local.ca_key)
            await certificates.verify(*files, chain[0].public_key)
    except (HarnessError, ValueError) as error:
        return None, str(error)
    return chain[0], ""


def _missing(context: Context) -> tuple[str | Untried, ...]:
    wanted = []
    config = context.config
    if config.identity.mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT):
        wanted.append((config.identity.spire.agent_path, spire.AGENT))
    if config.identity.mode is schema.IdentityMode.LOCAL:
        wanted.append((config.identity.spire.server_path, spire.SERVER))
    missing: list[str | Untried] = []
    for configured, name in wanted:
        try:
            spire.find_program(configured, name)
        except HarnessError as error:
            denied = next((place for place in spire.places(configured, name) if is_denied(place)), None)
            if denied is not None and not context.root:
                missing.append(needs_root(f"{denied} cannot be looked at by this user"))
            else:
                missing.append(error.message)
    return tuple(missing)


async def ask(context: Context) -> Frame | Untried:
    """What the proxy's user gets. Before joining only an agent that is somebody else's can be asked: ours does not run yet."""
    if not context.configured:
        return UNCONFIGURED
    if not context.running and context.config.identity.mode is not schema.IdentityMode.EXTERNAL:
        return Untried("what issues it does not run yet")
    if not context.root:
        return needs_root("the question is asked as the proxy's user")
    try:
        return await own_svid.fetch(context.socket, process.find_user(context.config.proxy.user), SVID_SECONDS)
    except HarnessError as error:
        return Untried(" ".join(error.message.split()))


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to = Judge(NAME)
    yield from _judge_anchors(to, context, facts)
    if context.config.identity.mode is schema.IdentityMode.LOCAL:
        yield from _judge_signing(to, context, facts)
    if context.config.identity.mode in (schema.IdentityMode.LOCAL, schema.IdentityMode.AGENT):
        found = (facts.programs_missing,) if isinstance(facts.programs_missing, Untried) else facts.programs_missing
        missing = [reason for reason in found if isinstance(reason, str)]
        why = reasons_untried(*found)
        yield to.found("SPIRE's programs are installed", problems.SPIRE_MISSING, missing, tried=not why, why=why)
    yield _judge_svid(to, context, context.frame)


def _judge_anchors(to: Judge, context: Context, facts: Facts) -> Iterator[Result]:
    text = "the trust anchors can be used"
    if isinstance(facts.anchors, Untried):
        yield to.skipped(text, facts.anchors.why)
        return
    states = [trust.state_of(anchor.not_before, anchor.not_after, context.wall) for anchor in facts.anchors]
    valid = [anchor for anchor, state in zip(facts.anchors, states, strict=True) if not state]
    reason = facts.anchors_error
    if facts.anchors and not valid:
        state = phrases.EARLY if phrases.EARLY in states else phrases.EXPIRED
        reason = f"{context.config.controller.trust_anchors}: each of {len(facts.anchors)} anchors {state}"
    yield to.found(text, problems.ANCHORS_UNUSABLE, filter(None, [reason]), tried=bool(valid))
    if valid:
        last = max(anchor.not_after for anchor in valid)
        near = last - context.wall < ANCHOR_SECONDS
        reasons = [f"the last of them ends in {_left(last, context.wall)}"] if near else []
        text = f"the trust anchors are valid for {_left(last, context.wall)}"
        yield to.found(text, problems.ANCHORS_EXPIRING, reasons, tried=True)


def _judge_signing(to: Judge, context: Context, facts: Facts) -> Iterator[Result]:
    signing = facts.signing
    text = "SPIRE can sign under its certificate"
    if isinstance(signing, Untried):
        yield to.skipped(text, signing.why)
        return
    yield to.found(text, IDENTITY_CA_UNUSABLE, filter(None, [facts.signing_error]), tried=signing is not None)
    if signing is None:
        return
    root = [f"{context.config.identity.local.ca_cert} is a root"] if signing.root else []
    yield to.found("no root key is on this machine", IDENTITY_ROOT_KEY, root, tried=True)
    left, life = signing.not_after - context.wall, signing.not_after - signing.not_before
    text = _left(signing.not_after, context.wall)
    late = [f"it ends in {text}, of {times.span(life)}"] if left * 3 < life else []
    yield to.found(f"the signing certificate is valid for {text}", IDENTITY_CA_EXPIRING, late, tried=True)


_PROBLEMS: dict[FailureKind, Problem] = {
    FailureKind.SOCKET_MISSING: IDENTITY_SOCKET_MISSING,
    FailureKind.DENIED: IDENTITY_NOT_ISSUED,
    FailureKind.INVALID: IDENTITY_NOT_ISSUED,
    FailureKind.TEMPORARY: SPIRE_FAILING,
}


def _judge_svid(to: Judge, context: Context, frame: Frame | Untried) -> Result:
    text = f"the proxy's user gets {context.spiffe_id}"
    if isinstance(frame, Untried):
        return to.skipped(text, frame.why)
    if isinstance(frame, Failed):
        return to.failed(text, _PROBLEMS[frame.kind], frame.message)
    svid = context.svid
    if svid is None:
        return to.failed(text, IDENTITY_NOT_ISSUED, f"it gets {', '.join(str(other.spiffe_id) for other in frame.svids)}")
    leaf = certificates.parse(svid.chain_der[0])
    left, life = svid.expires_at - context.wall, leaf.not_after - leaf.not_before
    if left < life / 4:  # SPIRE renews at half of it
        return to.failed(text, IDENTITY_EXPIRING, f"it ends in {left:.0f} s of {life:.0f}, and is not renewed")
    return to.passed(f"{text}, valid for {_left(svid.expires_at, context.wall)}")


def _left(end: float, wall: float) -> str:
    return times.span(end - wall)
