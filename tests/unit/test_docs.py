"""What the pages point to exists: files, headings, and every command with its flags."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller import admin, extension
from controller import cli as controller_cli
from harness import cli
from tests.mesh import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(p for p in (ROOT / "deploy").rglob("*.md"))],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
NAMED = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES]
# A file of ours in backquotes: it begins with a folder of ours, or is one in the root.
FOLDERS = sorted(p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in {"build", "dist", ".git", ".venv"})
MADE = ("bench.json", "docker/programs/digests")  # not in the checkout
FLAG = r"(?<![\w-])--?[a-z][a-z-]*"
PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "kubectl meshexp": admin.main,
    "linkerd meshexp": extension.main,
    "meshexp-controller": controller_cli.main,
    "meshexp": cli.main,
}


def slug(heading: str) -> str:
    """As GitHub makes an anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")


def headings(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(found) for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", NAMED)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


@pytest.mark.parametrize("page", NAMED)
def test_every_file_of_ours_that_is_named_exists(page: Path) -> None:
    for word in re.findall(rf"`((?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*)`", page.read_text()):
        candidates = [base / word for base in (ROOT, ROOT / "harness", page.parent)]
        assert any(path.exists() for path in candidates) or word.endswith(MADE), word


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each call of a program of ours, in a block or in backquotes: the program, and the words after it."""
    text = text.replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", text)
    lines = [line.split(" # ")[0] for line in text.splitlines() if line.startswith("    ")]
    blocks = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    for line in (*spans, *lines, *(line.split(" # ")[0] for line in blocks)):
        for call in re.split(r"&&|\|\||(?<!\\)[|;](?! ?\.)", line.replace("\\|", "/")):
            words = re.sub(r"^(\S*# |sudo |\$ )+", "", call.strip()).split()
            program = next((name for name in PROGRAMS if words[: len(name.split())] == name.split()), None)
            if program is not None:
                yield from ((program, list(one)) for one in itertools.product(*map(_either, words[len(program.split()) :])))


def _either(word: str) -> list[str]:
    """`show/apply` stands for two commands, and so does `show|apply` in a table."""
    return word.split("/") if re.fullmatch(r"[a-z]+(/[a-z]+)+", word) else [word]


def help_of(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What it says to --help after these words; None when it does not know them."""
    with pytest.raises(SystemExit) as end:
        PROGRAMS[program]([*words, "--help"])
    said = capsys.readouterr().out
    return None if end.value.code else said


def unknown(program: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The verbs and flags that the program does not know."""
    verbs: list[str] = []
    said = help_of(program, verbs, capsys)
    everywhere = set(re.findall(FLAG, said or ""))
    for word in words:
        if said is None or not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        further = help_of(program, [*verbs, word], capsys)
        if further is None:
            return [word]
        if further == said:  # an argument of the verb before it
            break
        said = further
        verbs.append(word)
    known = everywhere | set(re.findall(FLAG, said or ""))
    return [word for word in words if word.startswith("-") and word.partition("=")[0] not in known | {"-", "--help"}]


@pytest.mark.parametrize("page", NAMED)
def test_every_command_is_known_with_its_flags(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for program, words in commands(page.read_text()):
        assert unknown(program, words, capsys) == [], " ".join([program, *words])


def test_commands_are_found_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """Else the test above would say nothing."""
    found = [command for page in PAGES for command in commands(page.read_text())]
    assert len(found) > 100 and {program for program, _ in found} == set(PROGRAMS)
    assert any(words[:2] == ["proxy", "install"] and "--from" in words for _, words in found)
    for text, wrong in (
        ("    meshexp frobnicate --wait 3", ["frobnicate"]),
        ("    meshexp proxy instal --from x", ["instal"]),
        ("`meshexp status --wait 60 --wiat`", ["--wiat"]),
        ("    root# meshexp join face.invitation --proxy x -o json", []),
        ("| `meshexp cordon\\|uncordon\\|darin` |", ["darin"]),
        ("    kubectl meshexp get -n faces | grep x --nonsense", []),
        ("`kubectl meshexp invite --grop face`", ["--grop"]),
    ):
        assert [word for program, words in commands(text) for word in unknown(program, words, capsys)] == wrong, text


TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", NAMED)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    for target in re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(), re.MULTILINE):
        assert target in TARGETS, target


GUIDES = [pytest.param(ROOT / name, id=name) for name in ("README.md", "docs/join.md", "docs/install.md", "docs/trust-anchor.md")]


@pytest.mark.parametrize("page", GUIDES)
def test_what_is_to_be_put_in_is_explained_on_the_same_page(page: Path) -> None:
    """`NODE:PORT` in a command, for example."""
    lines = page.read_text().splitlines()
    typed = " ".join(line.split(" # ")[0] for line in lines if line.startswith("    "))
    prose = " ".join(line for line in lines if not line.startswith("    "))
    for word in set(re.findall(r"(?<![\w$=-])[A-Z]{3,}(?![\w=-])", typed)) - {"ARGS", "PATH"}:
        assert re.search(rf"\b{word}\b", prose), word


def test_the_plugin_is_installed_before_it_is_used() -> None:
    page = (ROOT / "README.md").read_text()
    assert page.index("pip install '.[controller]'") < page.index("\n    kubectl meshexp")


@pytest.mark.parametrize("file", ["packaging/deb/debian/meshexp-harness.docs", "packaging/rpm/meshexp-harness.spec"])
def test_each_package_has_every_page(file: str) -> None:
    """They link to one another."""
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert pages <= set((ROOT / file).read_text().split())


FOLDERS_OF = {"booted": ("neighbors", "package"), "kernel": ("netns", "check")}
"""Of the tests that docs/compatibility.md names."""


def test_each_line_about_another_program_names_its_tests_or_is_deduced() -> None:
    """And each is where its kind says: those that booted a machine, and those with its kernel alone."""
    lines = (ROOT / "docs/compatibility.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    tried = {name: how for name, _, how, _ in rows if name not in ("program or setting", "---")}
    assert len(tried) > 20
    for name, how in tried.items():
        tests = re.findall(r"`(test_\w+)`", how)
        assert bool(tests) is not (how == "deduced"), name
        placed = [
            (kind, test)
            for kind, text in re.findall(r"(booted|kernel)(.*?)(?=booted|kernel|$)", how)
            for test in re.findall(r"`(test_\w+)`", text)
        ]
        assert [test for _, test in placed] == tests, f"{name}: a test without its kind"
        for kind, test in placed:
            assert any((ROOT / "tests" / folder / f"{test}.py").exists() for folder in FOLDERS_OF[kind]), f"{name}: {kind} {test}"
