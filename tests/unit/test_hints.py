"""Every problem says what was tried, what came back, and names a command that shows more; no hint leaves a value out."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import check_problems, cli, explained, hints, phrases, problems
from harness.paths import Paths
from harness.problems import Problem
from harness.status import Condition, Truth
from tests.builders import config
from tests.mesh import ROOT

ALL = check_problems.REGISTRY
CODE = [path for folder in ("harness", "controller") for path in sorted((ROOT / folder).rglob("*.py"))]
OWN = ("harness/status.py", "harness/problem_registry.py")
"""Where conditions are made of problems; everybody else calls what is there."""
OF_A_PERSON = {
    "INVITATION": "the file that the administrator sends",
    "VERSION": "another command, which the hint names, prints it",
    "FILE": "what the person has downloaded",
}
"""No machine knows these, so they stay as they are in a hint."""
COMMANDS = {
    "meshexp": "the package",
    **dict.fromkeys(("systemctl", "systemd-sysusers", "timedatectl"), "systemd"),
    **dict.fromkeys(("ss", "ip"), "iproute2, which the package recommends"),
    **dict.fromkeys(("cat", "chmod", "chown", "df", "id", "ls", "rm"), "coreutils"),
    **dict.fromkeys(("getent",), "libc-bin"),
    "grep": "grep",
    **dict.fromkeys(("setpriv", "findmnt"), "util-linux"),
    "openssl": "openssl, which the package depends on",
    "update-alternatives": "dpkg",
    **dict.fromkeys(("lsattr", "chattr"), "e2fsprogs"),
    "modprobe": "kmod, which comes with a kernel that has modules",
    "apt-get": "apt",
}
"""On a machine that has the package: where each comes from (tests/package/test_explain.py looks whether it is there)."""
ELSEWHERE = {
    "kubectl": "on the administrator's machine",
    "linkerd": "on the administrator's machine",
    "spire-server": "at the SPIRE server",
    "dnf": "where there is no apt-get",
    "resolvectl": "where systemd-resolved runs",
    "docker": "on a machine where a container publishes a port",
    "ufw": "on a machine where it is the firewall",
    "firewall-cmd": "on a machine where it is the firewall",
}


def advice(problem: Problem) -> Iterator[str]:
    yield problem.advice
    yield from (text for _, text in problem.cases)


def rendered(problem: Problem) -> Iterator[str]:
    """As a machine shows it, with a value in each place."""
    known = hints.general(Paths().of("color"), config())
    for text in advice(problem):
        values = {name: f"the-{name}" for name in hints.places(text)}
        yield hints.put(text, hints.GENERAL | known | values)


def commands(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("code", sorted(ALL))
def test_each_hint_names_a_command_that_is_there(code: str) -> None:
    for text in rendered(ALL[code]):
        found = commands(text)
        assert found, f"{text!r} names no command"
        for command in found:
            assert shlex.split(command)[0] in COMMANDS | ELSEWHERE, command


@pytest.mark.parametrize("code", sorted(ALL))
def test_no_hint_leaves_a_value_or_an_answer_out(code: str) -> None:
    for text in rendered(ALL[code]):
        assert not re.search(r"[{}…<>]|\.\.\.", text), text
        words = set(re.findall(r"\b[A-Z]{4,}\b", " ".join(commands(text))))
        assert words <= OF_A_PERSON.keys(), f"{text!r}: who knows {words - OF_A_PERSON.keys()}?"
        for nothing in ("see the message", "see the page", "message has", "message carries", "mend", "anew"):
            assert nothing not in text, text


def test_a_place_has_a_word_for_the_page() -> None:
    for problem in ALL.values():
        for text in advice(problem):
            assert hints.places(text) <= hints.SPECIFIC.keys(), problem.code
        assert "{" not in " ".join(explained.paragraphs(problem))


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


@pytest.mark.parametrize("code", sorted(ALL))
def test_the_verbs_and_options_of_our_own_commands_exist(code: str) -> None:
    for text in rendered(ALL[code]):
        for command in commands(text):
            program, *words = shlex.split(command)
            parser = cli.parser()
            while program == "meshexp" and words and words[0] in _verbs(parser):
                parser = _verbs(parser)[words.pop(0)]
            if program == "meshexp":
                assert not _verbs(parser) or not words or words[0].startswith("-"), f"{command}: there is no {words}"
                options = {name for action in parser._actions for name in action.option_strings}
                assert {word for word in words if word.startswith("-")} <= options, command


# -- the places in the code where problems are met


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_condition_with_a_problem_says_what_was_tried(path: Path) -> None:
    """By `wrong(…, PROBLEM.found(tried, came, values))`, and in no other way."""
    if str(path.relative_to(ROOT)) in OWN or path.is_relative_to(ROOT / "controller"):
        return
    for call in calls(path):
        given = {keyword.arg for keyword in call.keywords}
        name = ast.unparse(call.func).rpartition(".")[2]
        if name == "Condition":
            assert len(call.args) < 4 and "problem" not in given, f"line {call.lineno}: {ast.unparse(call)}"
        if name == "replace":
            assert "problem" not in given or path.is_relative_to(ROOT / "harness/check"), f"line {call.lineno}"


def _constant(call: ast.Call) -> Problem | None:
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "found":
        return None
    name = ast.unparse(call.func.value).rpartition(".")[2]
    return getattr(check_problems, name, None) or getattr(problems, name, None) if name.isupper() else None


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_who_meets_a_problem_gives_each_value_that_its_hint_has_a_place_for(path: Path) -> None:
    for call in calls(path):
        problem = _constant(call)
        if problem is None:
            continue
        tried, came = call.args
        for word in (tried, came):
            assert not isinstance(word, ast.Constant) or word.value, f"line {call.lineno}: an empty sentence"
        wanted = {name for text in advice(problem) for name in hints.places(text)}
        given = {keyword.arg for keyword in call.keywords}
        assert given == wanted, f"line {call.lineno}: {problem.code} has places for {sorted(wanted)}"


def test_nothing_is_registered_that_nothing_meets() -> None:
    used = set()
    for path in CODE:
        if path.name not in ("problems.py", "check_problems.py", "identity_problems.py"):
            registers = re.compile(r"^[A-Z_]+ = register\(", re.MULTILINE)
            used |= set(re.findall(r"\b[A-Z][A-Z_]+\b", registers.sub("", path.read_text())))
    names = {
        name
        for module in (problems, check_problems)
        for name in dir(module)
        if isinstance(getattr(module, name), Problem)
    }  # fmt: skip
    assert names <= used, names - used
    assert len(names) == len(ALL)


def test_the_words_that_hints_go_by_are_those_that_come_back() -> None:
    """A case whose words nothing says would be a hint that nobody ever sees."""
    constants = [value for name, value in vars(phrases).items() if name.isupper()]
    known = {words for value in constants for words in ((value,) if isinstance(value, str) else value)}
    for problem in ALL.values():
        for words, _ in problem.cases:
            assert words in known, f"{problem.code}: {words!r} is not of phrases.py"


def test_a_value_from_outside_is_quoted() -> None:
    """People paste commands."""
    found = problems.IDENTITY_SOCKET_MISSING.found("asking", "nothing", socket="/run/a; rm -rf /")
    assert "`ss -xlp src '/run/a; rm -rf /'`" in found.hint()
    command = problems.PROBE_FAILED.found("x", "/bin/x ended with status 1", port="", key="", uid=7, command=("/bin/x", "a b"))
    assert "`setpriv --reuid=7 --clear-groups -- /bin/x 'a b'`" in command.hint()


def test_a_hint_has_the_values_of_its_machine() -> None:
    known = hints.general(Paths().of("color"))
    assert problems.CORDONED.found("cordon", "disks").hint(known).startswith("`meshexp uncordon --instance color`")
    assert "`systemctl reload meshexp-harness@color`" in problems.CONFIG_RELOAD_FAILED.found("x", "y").hint(known)
    assert Condition("Proxy", Truth.TRUE, "runs").hint(known) == ""


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_names_a_file_of_the_checkout(path: Path) -> None:
    """docs/ and deploy/ are on no machine."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            text = "" if "://" in node.value or path.name == "reference.py" else node.value
            assert not re.search(r"\b(docs|deploy)/[\w/]+|\w\.md\b", text), f"line {node.lineno}: {text}"
