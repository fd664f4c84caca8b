"""How the registration stands, in one sentence. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import phrases, problems, trust_problems
from harness.errors import HarnessError, InternalError, UnwritableError
from harness.messages import Registration
from harness.problems import Found
from harness.specs import RegistrationSpec
from harness.status import Condition, Truth, wrong
from harness.system.control_plane import RefusedError, UntrustedError
from harness.values import HostPort

if TYPE_CHECKING:
    from harness.reconcilers.registration_actions import Observed

NAME = "Registration"


def of(desired: RegistrationSpec | None, observed: Observed) -> Condition:
    registration, error = observed.registration, observed.error
    counts = f"{observed.failures} calls in a row" if error is not None and observed.failures > 1 else ""
    # Such an error names the cause; silence does not. A file that cannot be written keeps this machine from calling at all.
    named = isinstance(error, RefusedError | UntrustedError | UnwritableError | InternalError)
    if observed.silence is not None and observed.silence.lapsed and not named:
        tried = error.tried if error is not None and error.tried else _calling(observed)
        came = error.came if error is not None else phrases.NO_ANSWER
        found = problems.LEASE_LAPSED.found(tried, came, address=_address(observed) or "")
        return wrong(NAME, Truth.UNKNOWN, found, stands=str(observed.silence), counts=counts)
    if registration is not None:
        text = f"registered as {registration.namespace}/{registration.name}"
        if error is not None:
            return wrong(NAME, Truth.TRUE, _found(observed, error), stands=text, counts=counts)
        doubt = _doubtful(observed, registration)
        if doubt is not None:
            return wrong(NAME, Truth.TRUE, doubt, stands=text)
        return Condition(NAME, Truth.TRUE, text)
    if error is not None:
        return wrong(NAME, Truth.FALSE, _found(observed, error), counts=counts)
    return Condition(NAME, Truth.UNKNOWN, "waiting for the identity and an address" if desired is None else "registering")


def _doubtful(observed: Observed, registration: Registration) -> Found | None:
    """What is wrong with a registration that stands."""
    if observed.unkept is not None:
        return problems.of_failure("keeping the name for a restart", observed.unkept)
    if observed.is_copy:
        came = observed.copy_of.came if observed.copy_of is not None else "it was refused before this daemon started"
        return problems.MACHINE_IS_COPY.found("registering with the name that this machine kept", came)
    if registration.copied_by:
        came = f"a machine at {registration.copied_by} came with the secret of this one, and was not given its name"
        return problems.MACHINE_COPIED.found("holding the registration", came)
    return None


def _found(observed: Observed, error: HarnessError) -> Found:
    tried = error.tried or _calling(observed)
    address = _address(observed)
    at = str(address or "")
    match error:
        case UntrustedError():
            return trust_problems.OF_CONTROLLER[error.why].found(tried, error.came, address=at)
        case RefusedError(code="unauthenticated"):
            return problems.IDENTITY_REFUSED.found(tried, error.came)
        case RefusedError():
            before = f"; before that, with the name that it kept: {observed.copy_of.came}" if observed.copy_of is not None else ""
            return problems.REGISTRATION_REFUSED.found(tried, f"{error.came}{before}")
    host = address.host if address else ""
    return problems.of_failure(tried, error, problems.CONTROLLER_UNREACHABLE, address=at, host=host)


def _calling(observed: Observed) -> str:
    address = _address(observed)
    return f"calling the controller at {address}" if address else "calling the controller"


def _address(observed: Observed) -> HostPort | None:
    return observed.access.target.address if observed.access is not None else None
