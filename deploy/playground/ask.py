"""Asks the Faces page for cells, as a browser does, until the answers are as expected; run by `verify` in a container.

    ask.py SECONDS EXPECTATION...       exit code 1 when they are not within SECONDS; what came back is printed
    ask.py --for SECONDS EXPECTATION... asks for so long from the line "asking" on, and judges all of the answers once

name=NAME       the cluster's DNS knows NAME
face=none       face does not answer: the page shows a frowning face on purple
smiley=A,B      every answer shows one of these smileys (Grinning, HeartEyes, Cursing, Sleeping)
color=A+B       the answers show all of these colours, and no other (blue, green)
pod=A+B         these machines have answered, and no other
share=A:P       smiley A has a share of P per cent, as far as chance lets that be seen
errors=none     face and its parts have answered every time
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass

PAGE = "faces-gui.faces.svc.cluster.local"
# With the delays of the machines some ten requests a second, as the open page makes them.
THREADS, NUMBER, TIMEOUT = 8, 48, 20.0
SHARE_NUMBER = 320
# Of the binomial distribution: one good run in 150,000 is taken for a bad one.
DEVIATIONS = 4.5
SMILEYS = {"&#x1F603;": "Grinning", "&#x1F60D;": "HeartEyes", "&#x1F92C;": "Cursing", "&#x1F634;": "Sleeping"}
COLORS = {"#66CCEE": "blue", "#228833": "green", "#BBBBBB": "grey", "#EE6677": "red"}


def set_routes() -> None:
    """As a machine's: over the node, by the variables of mesh.env. The image has no `ip`, but pyroute2."""
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        for network in f"{os.environ['POD_CIDR']},{os.environ['SVC_CIDR']}".split(","):
            kernel.route("replace", dst=network, gateway=os.environ["NODE_IP"])


@dataclass(frozen=True)
class Answer:
    status: int
    pod: str
    smiley: str
    color: str
    error: str

    @property
    def shown(self) -> str:
        return self.error or f"{self.smiley} on {self.color}"


def ask() -> Answer:
    """One connection for each, so that a balancer of connections spreads them too."""
    connection = http.client.HTTPConnection(PAGE, timeout=TIMEOUT)
    try:
        connection.request("GET", "/face/center/?row=1&col=1", headers={"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            return Answer(response.status, "", "", "", f"{response.status} {body[:80].decode(errors='replace').strip()}")
        found = json.loads(body)
        errors = "; ".join(found.get("errors") or ())
        smiley, color = str(found.get("smiley")), str(found.get("color"))
        pod = response.headers.get("X-Faces-Pod", "")
        return Answer(200, pod, SMILEYS.get(smiley, smiley), COLORS.get(color, color), errors)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(0, "", "", "", f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def gather(number: int, end: float) -> list[Answer]:
    """So many answers, or as many as there are until `end`."""
    tickets, answers = iter(range(number)), list[Answer]()
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < end:
            with lock:
                if next(tickets, None) is None:
                    return
            answer = ask()
            with lock:
                answers.append(answer)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def judge(expectation: str, answers: list[Answer]) -> bool:
    what, _, wanted = expectation.partition("=")
    good = [answer for answer in answers if answer.status == 200]
    if what == "face":
        return bool(answers) and not good and all(answer.status for answer in answers)
    if not good:
        return False
    if what == "smiley":
        return {answer.smiley for answer in answers} <= set(wanted.split(","))
    if what == "color":
        return {answer.color for answer in answers} == set(wanted.split("+"))
    if what == "pod":
        return {answer.pod for answer in good} == set(wanted.split("+"))
    if what == "errors":
        return not any(answer.error for answer in answers)
    if what == "share":
        name, _, percent = wanted.partition(":")
        share = int(percent) / 100
        found = sum(answer.smiley == name for answer in answers) / len(answers)
        return abs(found - share) < DEVIATIONS * (share * (1 - share) / len(answers)) ** 0.5
    raise SystemExit(f"ask.py: there is no expectation {expectation!r}")


def told(answers: list[Answer]) -> str:
    """What came back, the most frequent first."""
    counted = Counter(f"{answer.shown} by {answer.pod or 'nobody'}" for answer in answers)
    lines = [f"{number} of {len(answers)}: {line}" for line, number in counted.most_common(6)]
    return "\n".join(lines) or "no answers"


def known(name: str) -> tuple[bool, str]:
    try:
        return True, f"{name} is {socket.gethostbyname(name)}"
    except OSError as error:
        return False, f"{name}: {error}"


def main(words: list[str]) -> int:
    set_routes()
    once = words[0] == "--for"
    seconds, *expectations = words[1:] if once else words
    if once:
        gather(THREADS, time.monotonic() + TIMEOUT)
        print("asking", flush=True)
    end = time.monotonic() + float(seconds)
    names = [expectation.partition("=")[2] for expectation in expectations if expectation.startswith("name=")]
    number = SHARE_NUMBER if any(expectation.startswith("share=") for expectation in expectations) else NUMBER
    while True:
        if names:
            found = [known(name) for name in names]
            holds, said = all(good for good, _ in found), "\n".join(line for _, line in found)
        else:
            answers = gather(10**9, end) if once else gather(number, max(end, time.monotonic() + TIMEOUT))
            holds, said = all(judge(expectation, answers) for expectation in expectations), told(answers)
        if holds or once or time.monotonic() >= end:
            print(said)
            return 0 if holds else 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
