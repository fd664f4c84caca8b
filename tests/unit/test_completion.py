"""TAB in real shells: what bash, zsh and fish offer of our verbs, options and names."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import arguments, cli, completion, completion_shells
from harness.check_problems import REGISTRY
from tests.mesh import ROOT
from tests.open_folder import open_folder

NODES = completion.nodes(cli.parser())
SCRIPTS = {shell: completion_shells.script(shell, NODES) for shell in completion_shells.SHELLS}
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
# A prompt that is known, all answers at once, and nothing but the words.
SET_UP = {
    "bash": "bind 'set bell-style none'; bind 'set show-all-if-ambiguous on'; bind 'set page-completions off';"
    " bind 'set enable-bracketed-paste off'; bind 'set completion-query-items 0'; . {script}; PS1='READY> '\n",
    "zsh": "autoload -U compinit; compinit -u -d {folder}/dump; . {script}; unset zle_bracketed_paste; LISTMAX=1000;"
    " unsetopt list_ambiguous; PS1='READY> '\n",
}


class Shell:
    """An interactive shell at a terminal of 200 columns, which has our completion."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        script = folder / name
        script.write_text(SCRIPTS[name])
        self._terminal, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (200, 200))
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self._process = subprocess.Popen(["setsid", "--ctty", *START[name]], cwd=folder, env=environment, **streams)  # type: ignore[call-overload]
        os.close(theirs)
        self._type(SET_UP[name].format(script=script, folder=folder))
        self._until(lambda said: said.rstrip().endswith("READY>") and "PS1" not in said.rpartition("\n")[2])

    def after_tab(self, line: str) -> str:
        """What the terminal shows after `line` and TAB; the line is taken back."""
        # The shell has done with TAB when it echoes what was typed after it.
        self._type(f"{line}\t#END")
        shown = self._until(lambda said: "#END" in said)
        self._type("\x15")
        return shown.partition("#END")[0]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _until(self, done: Callable[[str], bool]) -> str:
        said = ""
        end = time.monotonic() + 30
        while not done(said):
            assert select.select([self._terminal], [], [], max(0, end - time.monotonic()))[0], said
            said = plain(said + os.read(self._terminal, 65536).decode(errors="replace"))
        return said


def plain(shown: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\x1b[=>]|\r|\x07", "", shown)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with instances and versions, and names that nobody may offer."""
    made = tmp_path_factory.mktemp("completion")
    for name in ("etc/instances/color", "etc/instances/colour2", "state/proxy/2.366.0", "state/proxy/2.331.0"):
        (made / name).mkdir(parents=True)
    (made / "etc/instances/$(touch pwned)").mkdir()
    (made / "state/proxy/.install-x").mkdir()
    (made / "state/proxy/current").symlink_to("2.366.0")
    (made / "mine.pem").touch()
    return made


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, folder: Path) -> Iterator[Shell]:
    started = Shell(request.param, folder, environment(folder))
    yield started
    started.close()


def environment(folder: Path) -> dict[str, str]:
    places = {"MESHEXP_CONFIG_DIR": str(folder / "etc"), "MESHEXP_STATE_DIR": str(folder / "state"), "HOME": str(folder)}
    return {"PATH": os.environ["PATH"], "TERM": "dumb", "LC_ALL": "C.UTF-8", **places}


OFFERS = {
    "meshexp ": {"status", "check", "proxy", "completion", "help"},
    "meshexp proxy ": {"install", "list", "use", "rollback"},
    "meshexp --instance color proxy r": {"remove", "restart", "rollback"},
    "meshexp status --": {"--wait", "--watch", "--output", "--instance"},
    "meshexp status -o ": {"text", "json"},
    "meshexp proxy use ": {"2.366.0", "2.331.0"},
    "meshexp status --instance ": {"color", "colour2"},
    "meshexp --instance ": {"color", "colour2"},
    "meshexp explain probe-failed group-": {code for code in REGISTRY if code.startswith("group-")},
    "meshexp help pl": {"plan"},
    "meshexp completion ": {"bash", "zsh", "fish"},
}
COMPLETES = {
    "meshexp stat": "meshexp status",
    "meshexp proxy use 2.36": "meshexp proxy use 2.366.0",
    "meshexp status --instance colou": "meshexp status --instance colour2",
    "meshexp status --output=js": "meshexp status --output=json",
    "meshexp explain probe-f": "meshexp explain probe-failed",
    "meshexp proxy install --from mi": "meshexp proxy install --from mine.pem",
    "meshexp check --pre --out": "meshexp check --pre --output",
}
NOTHING = ("meshexp status --wait ", "meshexp proxy install --version ", "meshexp version x")


@pytest.mark.parametrize("line", OFFERS)
def test_tab_offers(shell: Shell, folder: Path, line: str) -> None:
    shown = shell.after_tab(line)
    assert OFFERS[line] <= set(shown.split()), shown
    assert "current" not in shown and ".install" not in shown and "pwned" not in shown
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize("line", COMPLETES)
def test_tab_completes(shell: Shell, line: str) -> None:
    assert COMPLETES[line] in shell.after_tab(line)


@pytest.mark.parametrize("line", NOTHING)
def test_tab_has_nothing_to_offer(shell: Shell, line: str) -> None:
    assert shell.after_tab(line).rpartition("READY>")[2].strip() == line.strip()


def fish(folder: Path, line: str) -> list[str]:
    """fish itself tells what TAB offers."""
    (folder / "fish").write_text(SCRIPTS["fish"])
    asked = 'source $argv[1]; complete -C "$argv[2]"'
    command = ["fish", "--no-config", "-c", asked, str(folder / "fish"), line]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment(folder), timeout=60)
    assert done.stderr == ""
    return [one.split("\t")[0] for one in done.stdout.splitlines()]


@pytest.mark.parametrize("line", OFFERS)
def test_fish_offers(folder: Path, line: str) -> None:
    offered = set(fish(folder, line))
    assert OFFERS[line] <= offered and "current" not in offered and "pwned" not in " ".join(offered)


@pytest.mark.parametrize("line", [line for line in COMPLETES if "=" not in line])
def test_fish_completes(folder: Path, line: str) -> None:
    assert fish(folder, line)[0] == COMPLETES[line].split()[-1]


@pytest.mark.parametrize("line", NOTHING)
def test_fish_has_nothing_to_offer(folder: Path, line: str) -> None:
    assert fish(folder, line) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_a_user_may_not_read_gives_no_error() -> None:
    user = ("setpriv", "--reuid=65534", "--clear-groups", "--")
    with open_folder() as folder:
        (folder / "bash").write_text(SCRIPTS["bash"])
        closed = folder / "closed"
        closed.mkdir(mode=0o000)
        line = "shopt -s failglob; COMP_WORDS=(meshexp proxy use ''); COMP_CWORD=3; _meshexp; echo ${#COMPREPLY[@]}"
        places = {"PATH": os.environ["PATH"], "MESHEXP_STATE_DIR": str(closed)}
        command = [*user, "bash", "-c", f". {folder}/bash; {line}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=places, cwd="/")
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_every_verb_and_option_is_in_each_script() -> None:
    """And each metavar has a kind: a new one that has none ends the script with a KeyError."""

    def paths(parser: arguments.Parser, path: str = "") -> Iterator[tuple[str, arguments.Parser]]:
        for name, below in arguments.verbs(parser).items():
            yield f"{path} {name}".strip(), below
            yield from paths(below, f"{path} {name}".strip())

    known = {node.path: node for node in NODES}
    for path, below in paths(cli.parser()):  # type: ignore[arg-type]
        options = {name for action in below._actions for name in action.option_strings}
        assert {name for option in known[path].options for name in option.names} == options
        assert all(f"'{path}'" in text or f"'__meshexp_at {path}'" in text for text in SCRIPTS.values())


@pytest.mark.parametrize("shell", completion_shells.SHELLS)
def test_the_command_prints_it(shell: str) -> None:
    command = [sys.executable, "-m", "harness", "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == SCRIPTS[shell] and done.stderr == ""
    checker = shutil.which(shell)
    assert checker is not None, f"{shell} is not installed: ./setup test"
    subprocess.run([checker, "-n"], input=done.stdout, text=True, check=True)
