"""What each verb prints at a terminal of 80 columns, without colour, without UTF-8, and into a pipe."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from harness import arguments, cli, log, phrases, steps, terminal, times
from harness.config.schema import LogFormat, LogLevel
from harness.errors import UnavailableError
from tests.mesh import ROOT

VERBS = (
    "", "status", "check --pre", "plan", "diff", "explain", "explain probe-failed", "explain -o json", "config check",
    "config check -o json", "config show", "redirect show", "proxy list", "uncordon", "drain", "logs", "version",
    "help check", "statsu", "join nowhere.json", "completion fish",
)  # fmt: skip
"""None changes a machine that has nothing of ours."""
ASCII = {"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}
PLAIN = {"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}, {"TERM": ""}
CONFIGURATION = "workload: {group: g, namespace: n, hostname: 'naïve–√'}\nnetwork: {node: 10.255.255.1}\n"
ENDS = {0, 1, 64, 69, 77, 78, 141}


@pytest.fixture(params=["", CONFIGURATION], ids=["nothing", "configured"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    if request.param:
        (tmp_path / "config/harness.yaml").write_text(request.param)
    return tmp_path


def at_terminal(folder: Path, words: str, **variables: str) -> tuple[int, str]:
    """Both streams, as a terminal of 80 columns gets them."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        command(words), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment(folder, variables)
    ) as process:
        os.close(theirs)
        said = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
    return process.returncode, said.decode().replace("\r\n", "\n")


def _read(terminal_: int) -> bytes:
    try:
        return os.read(terminal_, 65536)
    except OSError:  # EIO: nobody has the other end any more
        return b""


def command(words: str) -> list[str]:
    alone = ["unshare", "--net"] if os.geteuid() == 0 else []
    return [*alone, sys.executable, "-m", "harness", *words.split()]


def environment(folder: Path, variables: dict[str, str]) -> dict[str, str]:
    places = {f"MESHEXP_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "STATE", "RUN")}
    return {"PATH": os.environ["PATH"], "TERM": "xterm", "LC_ALL": "C.UTF-8", **places, **variables}


@pytest.mark.parametrize("words", [words for words in VERBS if "json" not in words and not words.startswith("completion")])
def test_every_line_fits_into_80_columns(folder: Path, words: str) -> None:
    _, said = at_terminal(folder, words)
    lines = re.sub(r"\x1b\[[\d;]*[mK]", "", said).splitlines()
    # Commands, addresses, names of files and values are copied, and so stay whole.
    long = [line for line in lines if len(line) > 80 and not re.fullmatch(r"\s*(# |\w+: )?(`[^`]+`|\S+)[.,;]?", line)]
    assert lines and long == []


@pytest.mark.parametrize("words", VERBS)
def test_without_colour_and_utf_8_there_is_neither(folder: Path, words: str) -> None:
    code, said = at_terminal(folder, words, NO_COLOR="1", LC_ALL="C")
    assert code in ENDS and "\x1b" not in said and said.isascii() and "Traceback" not in said
    if "-o json" in words:
        json.loads(said)


@pytest.mark.parametrize("variables", [*PLAIN, *ASCII], ids=str)
def test_each_way_to_say_so(tmp_path: Path, variables: dict[str, str]) -> None:
    _, said = at_terminal(tmp_path, "check --pre", **variables)
    assert ("\x1b" in said) == (variables in ASCII)
    plain = re.sub(r"\x1b\[[\d;]*m", "", said)
    assert ("\nx the system users are there" in plain) == (variables in ASCII) == plain.isascii()


def test_with_colour_there_are_escapes(tmp_path: Path) -> None:
    """An empty NO_COLOR says nothing: https://no-color.org."""
    for variables in ({}, {"NO_COLOR": ""}):
        assert "\x1b[31;1m×\x1b[0m" in at_terminal(tmp_path, "check --pre", **variables)[1]


@pytest.mark.parametrize("words", ["explain probe-failed", "check --pre", "plan"])
def test_a_pipe_gets_whole_lines(tmp_path: Path, words: str) -> None:
    done = subprocess.run(command(words), capture_output=True, text=True, cwd=ROOT, env=environment(tmp_path, {}), check=False)
    said = done.stdout + done.stderr
    assert "\x1b" not in said and max(map(len, said.splitlines())) > 80


def leaves(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    below = arguments.verbs(parser)
    if not below:
        yield path, parser
    for name, one in below.items():
        yield from leaves(one, f"{path} {name}".strip())


WITHOUT_JSON = {
    "run": "the daemon: its log is JSON where no terminal reads it",
    "container": "the output is the workload's",
    "logs": "the output is that of journalctl or of tail",
    "completion": "a script for a shell",
    "help": "text for people",
}


def test_every_verb_with_a_result_has_it_as_json() -> None:
    lacking = {
        path
        for path, parser in leaves(cli.parser())
        if not any(action.dest == "output" and "json" in (action.choices or ()) for action in parser._actions)
    }
    assert lacking == WITHOUT_JSON.keys()


@pytest.mark.parametrize(
    ("module", "words", "code", "said"),
    [
        ("controller", "", 0, "usage: meshexp-controller "),
        ("controller", "versoin", 64, "there is no verb 'versoin'; did you mean version?"),
        ("controller", "version -o json", 0, '"version": '),
        ("controller.admin", "", 0, "usage: kubectl meshexp "),
        ("controller.admin", "gte", 64, "there is no verb 'gte'; did you mean get?"),
        ("controller.admin", "get --selectr x", 64, "did you mean --selector?"),
        ("controller.extension", "", 0, "usage: linkerd meshexp "),
        ("controller.extension", "chekc", 64, "there is no verb 'chekc'; did you mean check?"),
        ("demo", "--onec", 64, "did you mean --once?"),
    ],
)
def test_the_other_commands_do_alike(module: str, words: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *words.split()], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert bool(done.stderr) == (code != 0)


def test_a_line_is_wrapped_below_its_beginning() -> None:
    line = "√ Routes        no route to the node 10.0.0.1, asked `ip route get 10.0.0.1`"
    wrapped = terminal.wrap(line, 16, width=44)
    assert wrapped.split("\n") == [
        "√ Routes        no route to the node",
        "                10.0.0.1, asked",
        "                `ip route get 10.0.0.1`",
    ]
    painted = line.replace("√", "\x1b[32;1m√\x1b[0m", 1)
    assert terminal.wrap(painted, 16, width=44) == wrapped.replace("√", "\x1b[32;1m√\x1b[0m", 1)
    assert terminal.wrap(line, 16, width=None) == line
    assert terminal.wrap("# not known yet: the cluster's DNS servers", 4, width=40).split("\n")[1] == "#   servers"


def test_times_have_one_format() -> None:
    assert times.moment(0) == "1970-01-01 00:00:00Z" == times.shown("1970-01-01T01:00:00.123+01:00")
    assert times.moment(1e18) == "an impossible time"


@pytest.mark.parametrize(("number", "said"), [(0, "0 routes"), (1, "1 route"), (2, "2 routes")])
def test_numbers_in_words(number: int, said: str) -> None:
    assert phrases.counted(number, "route") == said
    assert phrases.counted(number, "is", "are") == f"{number} {'is' if number == 1 else 'are'}"


def test_a_log_line_at_a_console_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        log.set_up(LogLevel.INFO, LogFormat.CONSOLE)
        hostile = "x\x1b[2J\x9b31m\n2026-01-01 [error] all is lost"
        logger = structlog.get_logger()
        logger.info(hostile, said=hostile)
        try:
            raise ValueError(hostile)
        except ValueError:
            logger.exception("failed")
    finally:
        structlog.reset_defaults()
        logging.shutdown()
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\x9b" not in said
    assert "ValueError" in said and not any(line.startswith("2026-01-01 [error]") for line in said.splitlines())
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}Z \[info", said)


@pytest.mark.parametrize("command", ["\x1b[2J", "\x9b", "\r", "\x0c", *"\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"])
def test_what_others_say_commands_no_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does it turn what follows: with U+202E a reader sees other words than there are."""
    text = f"the controller says {command}gnorw si gnihton"
    terminal.say_error("meshexp", text, text)
    terminal.Answer().say(text)
    said = "".join(capsys.readouterr())
    assert command[0] not in said and said.count("?") == 3
    assert terminal.harmless("a\tb\nç 日本語 שלום") == "a\tb\nç 日本語 שלום"


def test_a_failed_step_tells_its_list_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The rest follows as the command's own error."""
    made = steps.Steps("text")
    with pytest.raises(UnavailableError), made.step("check this machine"):
        raise UnavailableError("not passed: 2 of 9 checks\n  one\n  two")
    said = capsys.readouterr().out
    assert said.rstrip().endswith("not passed: 2 of 9 checks") and "one" not in said


def test_json_loses_nothing_where_the_output_is_ascii() -> None:
    before = sys.stdout
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    try:
        said = terminal.json_text({"√": "×"})
    finally:
        sys.stdout = before
    assert said.isascii() and json.loads(said) == {"√": "×"}
