"""Every reader of what comes from outside, one row each."""

from __future__ import annotations

from tests.fuzz import of_calls, of_cluster, of_crypto, of_files, of_kernel, of_wire
from tests.fuzz.engine import Target

MODULES = (of_wire, of_cluster, of_kernel, of_crypto, of_files, of_calls)
TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
