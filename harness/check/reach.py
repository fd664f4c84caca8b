"""Whether peers' packets get here: the controller connects to this machine's proxy, and tells what came of it.

Rules of this machine can be read (firewall.py). What a cloud's security group or a firewall between does, only a packet shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness import check_problems as problems
from harness import phrases
from harness.check.context import Context, needs_root
from harness.check.report import NOT_LOOKED, Judge, Result, Untried, reasons_untried
from harness.errors import HarnessError
from harness.messages import Reach, Reached
from harness.reconcilers.kept_name import KeptName
from harness.specs import Target
from harness.status import Phase
from harness.system.control_plane import ControlPlane, RefusedError

NAME = "meshexp-reach"
MOST_CHARACTERS = 300
TEXT = "peers can connect to this machine"
_WORDS = {
    Reached.REFUSED: phrases.REFUSED,
    Reached.TIMED_OUT: f"{phrases.NO_CONNECTION} in time",
    Reached.NO_WAY: "no way to this machine",
    Reached.NO_TLS: f"connected, but {phrases.NO_PROXY_TLS}",
    Reached.UNTRUSTED: "the certificate of this machine's proxy does not count",
    Reached.WRONG_NAME: f"{phrases.ANSWERS_AS} is not this machine",
}
"""For a controller that has no words of its own."""


@dataclass(frozen=True, slots=True)
class Facts:
    told: Reach | Untried = NOT_LOOKED


async def gather(context: Context) -> Facts:
    registration, svid = context.registration, context.svid
    if why := _premature(context):
        return Facts(Untried(why))
    if not context.root:
        return Facts(needs_root("the secret of the registration is shown"))
    if svid is None or registration is None:
        none = "the proxy's user gets no certificate to ask the controller with"
        return Facts(Untried(reasons_untried(context.frame) or none))
    kept = KeptName(context.paths.registration)
    if kept.fault is not None:
        return Facts(Untried(f"the secret of the registration cannot be shown: {kept.fault.message}"))
    controller = context.config.controller
    target = Target(controller.address, controller.identity, context.anchors_pem)
    calls = ControlPlane()
    try:
        return Facts(await calls.reach(target, svid, registration, kept.secret))
    except RefusedError as refusal:
        return Facts(_refused(refusal))
    except HarnessError as error:
        return Facts(Untried(f"the controller cannot be asked: {error.message}"))
    finally:
        await calls.close()


def _refused(refusal: RefusedError) -> Untried:
    if refusal.code == "unknown-call":
        return Untried("the controller is older than this program, and makes no such test")
    return Untried(f"the controller refused the test: {refusal.message}")


def _premature(context: Context) -> str:
    """Why nothing can answer yet, which is said elsewhere; empty when the proxy runs."""
    if not context.running:
        return "meshexp-harness does not run"
    if context.status.get("phase") == Phase.UNKNOWN.text:
        return "meshexp-harness does not say whether the proxy runs"
    if context.registration is None:
        return context.registration_unread or "this machine is not registered"
    said = {condition["name"]: condition for condition in context.status.get("conditions", ())}
    proxy = said.get("Proxy", {})
    return "" if proxy.get("status") == "True" else f"the proxy is not ready: {proxy.get('message', 'nothing is known of it')}"


def judge(context: Context, facts: Facts) -> Iterator[Result]:
    to, told = Judge(NAME), facts.told
    if isinstance(told, Untried):
        yield to.skipped(TEXT, told.why)
        return
    when = f", {told.ago:.0f} s before this check; it asks again 10 s after the last try" if told.ago >= 1 else ""
    place = f"{told.address} port {told.port}"
    if told.outcome is Reached.CONNECTED:
        yield to.passed(f"{TEXT}: the controller connected from {told.source or 'its address'} to {place}{when}")
        return
    came = f"{told.message[:MOST_CHARACTERS] or _WORDS[told.outcome]} (after {told.took:.1f} s{when})"
    yield to.failed(TEXT, problems.INBOUND_UNREACHED.narrowed(came, port=told.port), f"the controller to {place}: {came}")
