"""Why a certificate is refused. The reason chooses what is said of it: a wrong clock is met as often as a wrong peer. Pure."""

from __future__ import annotations

import enum
import ssl

from harness import phrases

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_NAMES = (62, 63, 64)
CLOCK = "`timedatectl` shows this machine's clock, `timedatectl set-ntp true` sets it from the network"


class Distrust(enum.Enum):
    EARLY = "early"
    EXPIRED = "expired"
    NAME = "name"
    ISSUER = "issuer"
    """No trust anchor is above it, or it is not made for this."""
    OURS = "ours"
    """It is not the peer's certificate: the peer refuses ours."""

    @property
    def of_clock(self) -> bool:
        """Whether a wrong clock of this machine makes it."""
        return self in (Distrust.EARLY, Distrust.EXPIRED)

    def hint(self, other: str) -> str:
        """`other`: where the clock is not a likely cause."""
        return CLOCK if self.of_clock else other


def state_of(begins: float, ends: float, now: float) -> str:
    """What is wrong with a certificate's time, all in epoch seconds; empty while it is valid."""
    if now < begins:
        return phrases.EARLY
    return phrases.EXPIRED if now >= ends else ""


def hint_of(error: BaseException, other: str = "") -> str:
    """For a certificate that is refused; `other`: where the clock is not a likely cause."""
    why = of(error)
    return why.hint(other) if why is not None else other


def of(error: BaseException) -> Distrust | None:
    """None: that is not what happened."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code == _NOT_YET_VALID:
            return Distrust.EARLY
        if code == _HAS_EXPIRED:
            return Distrust.EXPIRED
        return Distrust.NAME if code in _NAMES else Distrust.ISSUER
    if isinstance(error, ssl.SSLError) and alert(error):
        return Distrust.OURS
    return None


def alert(error: ssl.SSLError) -> str:
    """What the peer says of our certificate, in TLS's words, such as `certificate expired`; empty when it is not about that."""
    _, _, said = str(getattr(error, "reason", "") or "").partition("ALERT_")
    text = said.lower().replace("_", " ")
    return text if "certificate" in text or text == phrases.UNKNOWN_CA else ""


def words(name: str, error: ssl.SSLError, clock: str = "this machine's clock") -> str:
    """One sentence of what was refused; `name`: who the peer should be, `clock`: what its time was compared with."""
    match of(error):
        case Distrust.EARLY:
            return f"the certificate of {name} {phrases.EARLY} by {clock}"
        case Distrust.EXPIRED:
            return f"the certificate of {name} {phrases.EXPIRED} by {clock}"
        case Distrust.OURS:
            return f"{name} refuses this machine's certificate: {alert(error)}"
    return f"what answers is not {name}: {getattr(error, 'verify_message', '') or error}"
