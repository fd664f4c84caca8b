"""The problems with certificates that one side of a connection refuses, one for each reason; problems.py passes them on."""

from __future__ import annotations

from harness import phrases
from harness.problem_registry import Problem, Severity, Where, register
from harness.trust import Distrust

TRUST_ROOTS = "`kubectl -n linkerd get configmap linkerd-identity-trust-roots -o yaml`"

MISSED = (
    "make a new invitation (`kubectl meshexp invite`) and take it here with `meshexp join{instance} INVITATION`, or copy the"
    f" present anchors to {{anchors}}: the ca-bundle.crt of {TRUST_ROOTS}"
)
"""What helps a machine that cannot follow a rotation any more."""

ANCHORS_BEHIND = register(
    "anchors-behind",
    Where.MACHINE,
    "the file controller.trust_anchors is not what is in force; a machine that leaves for good and joins again has only the file",
    "`meshexp anchors accept{instance} {fingerprints}` writes those in force into {anchors}",
    Severity.WARNING,
    standing=True,
)
ANCHORS_UNPROVEN = register(
    "anchors-unproven",
    Where.CLUSTER,
    "the controller tells other trust anchors, which are not proven: those before stay in force",
    f"{TRUST_ROOTS} shows what the cluster tells: where that is wrong, correct it there, and this machine needs nothing; where it"
    " is right, `meshexp anchors{instance}` shows both, and `meshexp anchors accept{instance} {fingerprints}` takes them by hand",
    Severity.WARNING,
    standing=True,
)
ANCHORS_PINNED = register(
    "anchors-pinned",
    Where.MACHINE,
    "the controller tells other trust anchors than the file has, and controller.anchors is pinned",
    f"compare them with {TRUST_ROOTS} by a way that you trust, then `meshexp anchors accept{{instance}} {{fingerprints}}`;"
    " `meshexp anchors{instance}` shows both",
    Severity.WARNING,
    standing=True,
)
CLOCK_SKEW = register(
    "clock-skew",
    Where.EITHER,
    "this machine's clock and the cluster's differ",
    "`timedatectl` shows the clock, `timedatectl set-ntp true` has it set (or start chronyd); certificates count in seconds",
)
CERTIFICATE_EXPIRED = register(
    "certificate-expired",
    Where.EITHER,
    "a certificate of the cluster has expired, or this machine's clock is ahead",
    "`timedatectl` shows this machine's clock; if it is right, `openssl s_client -connect {address} -showcerts` shows the"
    " certificate, and its pod does not renew it: `kubectl get pods --all-namespaces -o wide` names the pod",
)
CONTROLLER_MISNAMED = register(
    "controller-misnamed",
    Where.EITHER,
    "the certificate of what answers at the controller's address is the mesh's, and has another name",
    "`openssl s_client -connect {address} -showcerts` shows the name; controller.identity must be the controller's name,"
    " and controller.address its address",
)
CONTROLLER_UNTRUSTED = register(
    "controller-untrusted",
    Where.EITHER,
    "the controller's certificate does not lead to a trust anchor of this machine",
    "who answers there? `openssl s_client -connect {address} -showcerts`; where it is the controller, Linkerd's trust anchors"
    f" were rotated while this machine was off: {MISSED}",
)
IDENTITY_REFUSED = register(
    "identity-refused",
    Where.EITHER,
    "the controller refuses this machine's certificate",
    "this machine's certificate must be an X.509-SVID, and lead to a trust anchor of the cluster: `meshexp check{instance}` looks"
    " at what it is made of",
    cases={
        phrases.EARLY: "this machine's clock is ahead, or the controller's behind: `timedatectl` shows this one, and `timedatectl"
        " set-ntp true` has it set",
        phrases.EXPIRED: "this machine's clock is behind, or its certificate is not renewed: `timedatectl` shows the clock,"
        " `meshexp check{instance}` the certificate",
        phrases.UNKNOWN_CA: "this machine's certificate must lead to a trust anchor of the cluster: `meshexp check{instance}`"
        f" looks at what it is made of, {TRUST_ROOTS} has the cluster's; after a rotation of the anchors that this machine has"
        " missed it needs a new invitation: `kubectl meshexp invite`, and `meshexp join{instance} INVITATION` here",
    },
)
OF_CONTROLLER: dict[Distrust, Problem] = {
    Distrust.EARLY: CLOCK_SKEW,
    Distrust.EXPIRED: CERTIFICATE_EXPIRED,
    Distrust.NAME: CONTROLLER_MISNAMED,
    Distrust.ISSUER: CONTROLLER_UNTRUSTED,
    Distrust.OURS: IDENTITY_REFUSED,
}
