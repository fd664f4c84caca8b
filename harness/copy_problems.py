"""Problems of a machine that was copied, with the files that say who it is. problems.py is the way in."""

from __future__ import annotations

from harness.problem_registry import Severity, Where, register

MACHINE_COPIED = register(
    "machine-copied",
    Where.EITHER,
    "another machine called the controller with this machine's secret: it was made as a copy of this one, state directory"
    " included",
    "`kubectl get externalworkloads -A` shows both; `meshexp leave --purge` on the copy and a new `meshexp join` there"
    " make it a machine of its own; this warning ends after an hour",
    Severity.WARNING,
    standing=True,
)
MACHINE_IS_COPY = register(
    "machine-is-copy",
    Where.MACHINE,
    "this machine was made as a copy of another that is in the mesh, state directory included; it has registered under a name"
    " of its own",
    "its keys are still those of the other: `meshexp leave --purge{instance}`, then `meshexp join` with an invitation of its own;"
    " before an image is made, `meshexp leave --purge` on the machine that it is made of",
    Severity.WARNING,
    standing=True,
)
