"""Every verb on a machine in every state, by root and by another user: what each prints, and by which exit status it ends."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from harness import cli
from tests.check import lab
from tests.mesh import Mesh

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--")
NEVER, CONFIGURED, WAITS, RUNNING, CORDONED, KILLED = (
    "never configured", "configured", "not registered", "running", "cordoned", "killed",
)  # fmt: skip
STATES = (NEVER, CONFIGURED, WAITS, RUNNING, CORDONED, KILLED)
Key = tuple[str, str]
Expected = tuple[int, tuple[str, ...]]
"""The exit status, and what is to be read."""

NO_GROUP: Expected = (78, ("workload: required, but missing", "`meshexp join`"))
NOT_CONFIGURED: Expected = (69, ("this machine waits for its configuration", "hint: run `meshexp join INVITATION`"))
NOT_REGISTERED: Expected = (69, ("this machine is not registered", "hint: start the harness, which registers it: `meshexp run`"))
NO_RULES: Expected = (69, ("there are no redirect rules of ours to test",))
NO_LOG: Expected = (69, ("there is no journal on this machine",))
NOT_KNOWN = "not known yet: "
PLAN_BEFORE = (
    "add route 10.42.0.0/24 via 10.9.0.1",
    f"# dns: {NOT_KNOWN}the cluster's DNS servers, which the controller tells at the registration",
    f"# proxy: {NOT_KNOWN}the proxy's variables",
    f"# redirect: {NOT_KNOWN}the group's ports",
    "the networks are 10.42.0.0/24, 10.43.0.0/16",
)
TAKEN_OVER = "what it had set is left for the next one, which takes it over: `meshexp run`"


def always(states: Iterable[str], expected: Expected) -> dict[str, Expected]:
    return dict.fromkeys(states, expected)


UNHEARD: Expected = (75, ("the controller does not hear of it: ", TAKEN_OVER, "peers may still send here"))
"""The cluster sends until the lease has ended: nothing is drained."""
BY_ROOT: dict[str, dict[str, Expected]] = {
    "status": {
        NEVER: (1, ("Stopped: no meshexp-harness runs here",)),
        CONFIGURED: (1, ("Stopped: no meshexp-harness runs here",)),
        WAITS: (1, ("Starting since", "controller-unreachable")),
        RUNNING: (0, ("Ready since",)),
        CORDONED: (1, ("new disks", "‼ Cordoned")),
        KILLED: (1, ("Stopped: ", TAKEN_OVER)),
    },
    "check": {
        NEVER: (1, ("- the configuration is right", "`meshexp join INVITATION`")),
        CONFIGURED: (1, ("× meshexp-harness runs",)),
        WAITS: (1, ("× this machine is registered",)),
        RUNNING: (0, ("√ meshexp-harness runs", "√ metrics are served at 127.0.0.1:4192")),
        CORDONED: (0, ("‼ Cordoned\n", "new disks")),
        KILLED: (1, ("× meshexp-harness runs", TAKEN_OVER)),
    },
    "check --pre": {
        NEVER: (1, ("- the configuration is right",)),
        CONFIGURED: (0, ("√ the controller answers", "√ port 4192 is free for metrics")),
        WAITS: (1, ("× the controller answers",)),
        RUNNING: (0, ("√ the controller answers",)),
        KILLED: (0, ("√ the controller answers",)),
    },
    "plan": {
        NEVER: NOT_CONFIGURED,
        CONFIGURED: (0, PLAN_BEFORE),
        WAITS: (0, (f"# dns: {NOT_KNOWN}", f"# redirect: {NOT_KNOWN}", "`meshexp status` says what that waits for")),
        RUNNING: (0, ("# nothing to do",)),
        CORDONED: (0, ("# nothing to do",)),
        KILLED: (0, ("# proxy: start ",)),
    },
    "plan -o json": {RUNNING: (0, ("[]",))},
    "diff": {
        NEVER: NOT_CONFIGURED,
        CONFIGURED: (1, ("+ route 10.42.0.0/24 via 10.9.0.1", f"# redirect\n# {NOT_KNOWN}")),
        WAITS: (1, (f"# redirect\n# {NOT_KNOWN}",)),
        RUNNING: (0, ("# no difference",)),
        CORDONED: (0, ("# no difference",)),
        KILLED: (1, ("# proxy\n+ start ",)),
    },
    "diff -o json": {CONFIGURED: (1, ('"part": "redirect"',)), RUNNING: (0, ("[]",))},
    "logs -n 3": {
        NEVER: NO_LOG, CONFIGURED: NO_LOG, WAITS: (0, ("{",)), RUNNING: (0, ("{",)), CORDONED: (0, ("{",)), KILLED: NO_LOG,
    },
    "config check -o json": {NEVER: (78, ('"valid": false', "required, but missing")), RUNNING: (0, ('"valid": true',))},
    "config check": always(STATES, (0, ("the configuration is right",))) | {NEVER: NO_GROUP},
    "config show -o json": always(STATES, (0, ("workload.group",))) | {NEVER: NO_GROUP},
    "redirect show": always(STATES, (0, ("redirect-ipv4",)))
    | always((NEVER, CONFIGURED, WAITS), (1, ("no redirect rules of ours",))),
    "redirect test": always(STATES, (0, ("√ outbound IPv4 passed", "√ inbound IPv4 passed")))
    | always((NEVER, CONFIGURED, WAITS), NO_RULES),
    "redirect show -o json": {CONFIGURED: (1, ("[]",)), RUNNING: (0, ("redirect-ipv4",))},
    "redirect test -o json": {RUNNING: (0, ("outbound IPv4",))},
    "redirect apply -o json": {RUNNING: (0, ('"actions": []',))},
    "redirect apply": {
        NEVER: NOT_CONFIGURED,
        CONFIGURED: NOT_REGISTERED,
        WAITS: (69, ("this machine is not registered", "hint: `meshexp status` says what the registration waits for")),
        RUNNING: (0, ("# nothing to do",)),
    },
    "proxy list -o json": {RUNNING: (0, ("[]",))},
    "proxy list": always(STATES, (0, ("none is installed",))),
    "proxy restart": {
        NEVER: (69, ("no meshexp-harness runs here",)),
        CONFIGURED: (69, ("no meshexp-harness runs here",)),
        KILLED: (69, (TAKEN_OVER,)),
    },
    "uncordon": {NEVER: (0, ("not cordoned",)), CONFIGURED: (0, ("not cordoned",)), RUNNING: (0, ("not cordoned",))},
    "uncordon -o json": {NEVER: (0, ('"cordoned": false',)), RUNNING: (0, ('"cordoned": false',))},
    "cordon -o json": {CORDONED: (0, ('"controller_told": true', '"reason": "new disks"'))},
    "cordon": {CORDONED: (0, ("cordoned: new disks; ",)), KILLED: UNHEARD},
    "drain --timeout 5": {
        NEVER: NOT_CONFIGURED,
        CORDONED: (0, ("cordoned: new disks; ", "drained: no connection is open")),
        KILLED: UNHEARD,
    },
    "drain --timeout 5 -o json": {CORDONED: (0, ('"open_connections": 0',))},
    "leave -o json": {NEVER: (0, ('"left": false',))},
    "leave": {NEVER: (0, ("√ nothing is configured here", "nothing was changed"))},
    "leave --purge": {NEVER: (0, ("√ nothing is configured here", "nothing was changed"))},
    "cleanup": {RUNNING: (75, ("another meshexp-harness runs here already",))},
    "cleanup --dry-run -o json": {KILLED: (0, ('"dry_run": true', '"remove the redirect'))},
    "cleanup --dry-run": {
        CONFIGURED: (0, ()),
        KILLED: (0, ("- remove the redirect", "- delete route 10.42.0.0/24", "to go on as a member instead: `meshexp run`")),
    },
    "explain cordoned": always(STATES, (0, ("meshexp uncordon",))),
    "status -o json": {NEVER: (1, ('"phase": "Stopped"',)), RUNNING: (0, ('"phase": "Ready"',))},
    "check -o json": {NEVER: (1, ('"success": false',)), RUNNING: (0, ('"success": true',))},
    "explain cordoned -o json": {NEVER: (0, ('"code": "cordoned"',))},
    "version -o json": {NEVER: (0, ('"version": ',))},
    "version": always(STATES, (0, ("meshexp-harness ",))),
}  # fmt: skip
"""Not in here is what would take the state away that the next verb is to meet."""
OPEN_TO_ALL = ("status", "check", "check --pre", "config show -o json", "proxy list", "version", "explain cordoned")
BY_NOBODY = [
    (words, state)
    for words in BY_ROOT
    for state in STATES
    if words in OPEN_TO_ALL or (state in (NEVER, RUNNING) and "-o json" not in words)
]
"""What is refused without a look at the machine is refused in every state."""
ELSEWHERE = {
    "run": "the daemon", "completion": "tests/unit/test_completion.py", "help": "tests/unit/test_cli_words.py",
    "join": "tests/netns/test_join.py", "container": "tests/container", "ca": "on the admin's machine",
}  # fmt: skip
NEEDS_ROOT = re.compile(r"needs root|root only|only root may|cannot be read by this user")


def meshexp(vm: Mesh, words: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = [*vm.vm.enter, *through, sys.executable, "-s", "-m", "harness", *words.split()]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=vm.environment, cwd="/", timeout=90, stdin=subprocess.DEVNULL
    )


Said = dict[tuple[str, str, str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def said() -> Iterator[Said]:
    """What each verb said, by state, user and words. One machine goes through all states."""
    found: Said = {}

    def ask(state: str) -> None:
        for words, by_state in BY_ROOT.items():
            if (words, state) in BY_NOBODY:
                found[state, "nobody", words] = meshexp(vm, words, NOBODY)
            if state in by_state:
                found[state, "root", words] = meshexp(vm, words)

    with lab.machine() as vm:
        file = vm.folder / "etc/harness.yaml"
        text = file.read_text()
        file.unlink()
        ask(NEVER)
        file.write_text(text)
        ask(CONFIGURED)
        vm.stop("controller")
        vm.start_daemon()
        vm.wait_problem("Registration", "controller-unreachable")
        vm.wait(lambda: ":4192" in vm.vm.run("ss", "-ltnH"))
        ask(WAITS)
        vm.start_controller()
        vm.wait_ready()
        ask(RUNNING)
        (vm.folder / "state/cordon.json").write_text(json.dumps({"reason": "new disks", "since": 1.0}))
        assert meshexp(vm, "cordon").returncode == 0
        vm.wait(lambda: vm.status()["message"] == "new disks")
        ask(CORDONED)
        assert "it was cordoned: new disks, since 1970-01-01" in meshexp(vm, "uncordon").stdout
        vm.wait_ready()
        vm.stop("harness", signal.SIGKILL)
        ask(KILLED)
        yield found


def verbs() -> Iterator[str]:
    """Of the command line, with the words below each."""
    parser = cli.parser()
    for name, verb in choices(parser):
        below = [word for word, _ in choices(verb)]
        yield from (f"{name} {word}" for word in below) if below else (name,)


def choices(parser: argparse.ArgumentParser) -> list[tuple[str, Any]]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [item for action in actions for item in action.choices.items()]


def test_no_verb_is_forgotten() -> None:
    proxy = {f"proxy {verb}" for verb in ("install", "use", "remove", "rollback")}
    changes = {*proxy, "anchors accept", "config import", "redirect remove"}
    here = {" ".join(words.split(" -")[0].split()) for words in BY_ROOT} | {words.split()[0] for words in BY_ROOT}
    missing = {verb for verb in verbs() if verb not in here | changes and verb.split()[0] not in ELSEWHERE}
    assert missing == set()


@pytest.mark.parametrize(("words", "state"), [(words, state) for words, states in BY_ROOT.items() for state in states])
def test_by_root(said: Said, words: str, state: str) -> None:
    code, texts = BY_ROOT[words][state]
    done = said[state, "root", words]
    everything = done.stdout + done.stderr
    assert done.returncode == code, everything
    assert all(text in everything for text in texts), everything
    assert "\x1b" not in everything
    if "-o json" in words and not done.stderr.startswith("meshexp: "):  # one document, also of a failure that is the result
        assert isinstance(json.loads(done.stdout), dict | list)
    elif "-o json" in words:
        assert done.stdout == ""
    says_what_went_wrong(done)


def says_what_went_wrong(done: subprocess.CompletedProcess[str]) -> None:
    assert "Traceback" not in done.stderr
    if done.returncode in (64, 69, 70, 75, 77):
        assert done.stderr.startswith("meshexp: ") and "\n  hint: " in done.stderr, done.stderr


@pytest.mark.parametrize(("words", "state"), BY_NOBODY)
def test_by_another_user(said: Said, words: str, state: str) -> None:
    """What only root may see or do is told as that, and is taken neither for absent nor for wrong."""
    done = said[state, "nobody", words]
    says_what_went_wrong(done)
    expected = BY_ROOT[words].get(state)
    if words in OPEN_TO_ALL:
        assert expected is None or done.returncode in (expected[0], 0), done.stdout + done.stderr
    elif expected is not None and expected in (NO_GROUP, NOT_CONFIGURED, NO_LOG) and done.returncode != 77:
        assert done.returncode == expected[0]
    else:
        assert done.returncode == 77 and NEEDS_ROOT.search(done.stderr), done.stdout + done.stderr
        assert "hint: run it with sudo" in done.stderr


REASONS = {
    "the controller tells the group's ports at the registration", "not configured yet", "there are none on this machine",
    "what issues it does not run yet", "there is no program that can be asked",
}  # fmt: skip


CHECKS = [(words, state) for words in ("check", "check --pre") for state in BY_ROOT[words]]


@pytest.mark.parametrize(("words", "state"), CHECKS)
def test_a_check_by_another_user_blames_nothing_that_root_finds_well(said: Said, words: str, state: str) -> None:
    by_root, by_nobody = (said[state, user, words].stdout.splitlines() for user in ("root", "nobody"))
    well = {line[2:] for line in by_root if line.startswith(("√ ", "- "))}
    blamed = {line[2:] for line in by_nobody if line.startswith(("× ", "‼ "))} & well
    assert blamed == set()
    reasons = [line.removeprefix("    skipped: ") for line in by_nobody if line.startswith("    skipped: ")]
    others = {reason for reason in reasons if not reason.startswith("needs root")}
    also_by_root = {line.removeprefix("    skipped: ") for line in by_root}
    unexplained = {one for one in others - REASONS - also_by_root if not one.startswith("not decided yet: ")}
    assert unexplained == set()
    assert any(reason.startswith("needs root") for reason in reasons)


def test_a_killed_daemon_has_one_hint(said: Said) -> None:
    """To remove everything would break what the next daemon takes over."""
    for words in ("status", "check", "check --pre", "plan", "diff"):
        assert "cleanup" not in said[KILLED, "root", words].stdout + said[KILLED, "root", words].stderr
    told = said[KILLED, "root", "cleanup --dry-run"].stderr
    assert told.startswith("‼ this takes the machine out of the mesh: open connections through the proxy break")
