"""What the tests need and no package brings: made by `setup test` once, and kept in the user's cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.container import debian
from tests.kubernetes_build import helm, kube_apiserver, kube_scheduler, kubectl
from tests.package import root, services

# A compiler keeps all cores busy, and what is installed in the meantime waits for mirrors.
MAKERS: tuple[tuple[str, Callable[[], object]], ...] = (
    ("kube-apiserver, kube-scheduler, kubectl and helm", lambda: (kube_apiserver(), kube_scheduler(), kubectl(), helm())),
    ("a Debian to install packages into", lambda: root.debian("bookworm")),
    ("a minimal Debian for container images, and what they install", debian.base),
    ("packages that bring services", services.archive),
)


def _make(what: str, make: Callable[[], object]) -> None:
    began = time.monotonic()
    make()
    if (seconds := time.monotonic() - began) > 1:
        print(f"made {what}: {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_make, *maker) for maker in MAKERS]:
            done.result()
