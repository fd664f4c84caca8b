"""`lookups.py RESOLV_CONF NUMBER THREADS`: looks up names by the C library, with that file for /etc/resolv.conf, and counts.

One of fifty is the cluster's. Prints {"foreign": n, "foreign_failed": n, "cluster": n, "cluster_failed": n, "slowest": seconds}.
"""

from __future__ import annotations

import concurrent.futures
import json
import socket
import subprocess
import sys
import time
from collections import Counter

FOREIGN, CLUSTER = "www.example.org.", "face.faces.svc.cluster.local."  # whole names, without search domains


def look_up(number: int) -> tuple[str, bool, float]:
    kind, name = ("cluster", CLUSTER) if number % 50 == 0 else ("foreign", FOREIGN)
    began = time.monotonic()
    try:
        socket.getaddrinfo(name, 80, socket.AF_INET)
        return kind, True, time.monotonic() - began
    except socket.gaierror:
        return kind, False, time.monotonic() - began


def main(number: int, threads: int) -> None:
    found: Counter[str] = Counter()
    slowest = 0.0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for kind, worked, seconds in pool.map(look_up, range(number)):
            found[kind] += 1
            found[f"{kind}_failed"] += not worked
            slowest = max(slowest, seconds if kind == "foreign" else 0.0)
    print(json.dumps({**found, "slowest": round(slowest, 2)}))


if __name__ == "__main__":
    if len(sys.argv) == 4:  # outside: a mount namespace of our own, then ourselves again
        bound = [
            "sh",
            "-c",
            'mount --bind "$0" /etc/resolv.conf && exec "$@"',
            sys.argv[1],
            sys.executable,
            *sys.argv[:1],
            *sys.argv[2:],
        ]
        sys.exit(subprocess.call(["unshare", "--mount", "--propagation", "private", *bound]))
    main(int(sys.argv[1]), int(sys.argv[2]))
