"""The shape of the code, held by a test: layers, sizes, and the few things that are allowed in one place only."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = [p for package in ("harness", "controller", "demo") for p in sorted((ROOT / package).rglob("*.py"))]
ALL = [*CODE, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]

# Who may import whom within harness/, by the first part of the module's name; what is not named here is pure.
PURE = {
    "anchors", "errors", "reading", "yaml_text", "json_text", "texts", "values", "decode", "messages", "probe",
    "listeners", "known",
    "invitation", "problems", "problem_registry", "identity_problems", "step_problems", "trust",
    "trust_problems", "hints", "phrases", "check_problems", "status_fields", "freshness",
    "metrics_text", "joining", "status", "rules", "packets", "limits", "route_clashes", "route_ways",
    "network_problems", "proxy_problems",
    "copy_problems", "desired", "specs", "dns_text", "config",
    "proxy_environment", "proxy_release", "backoff", "tasks", "paths", "denied", "clock", "spire",
    "terminal", "times",
}  # fmt: skip
LAYERS = {
    "system": PURE,
    "supervisor": PURE | {"system"},
    "reconcilers": PURE | {"system", "supervisor"},
    "daemon": PURE | {"system", "supervisor", "reconcilers", "log", "lean_imports"},
    "check": PURE | {"system", "supervisor", "reconcilers", "daemon"},
    "log": PURE,
}
TOP = {
    "cli", "__main__", "status_cli", "redirect_cli", "proxy_cli", "cordon_cli", "check_cli",
    "join_cli", "join_start", "leave_cli", "logs_cli", "config_cli", "explain_cli", "completion",
    "completion_cli", "completion_shells", "explained", "steps", "ca", "ca_cli", "container",
    "container_cli", "container_gate", "container_workload", "reference", "reference_groups",
    "lean_imports", "missing", "ending", "arguments", "anchors_cli",
}  # fmt: skip
# Libraries that reach outside, and the only places that may import them.
OUTSIDE = {
    "pyroute2": ("harness/system/",),
    "iptc": ("harness/system/",),
    "httpx": ("harness/system/",),
    "h2": ("harness/system/", "controller/linkerd_identity"),
    "systemd": ("harness/system/",),
    "subprocess": ("harness/system/", "demo/", "controller/", "tests/", "bench/"),
    "aiohttp": ("controller/", "demo/endpoints.py", "tests/"),
}


def imports(path: Path) -> Iterator[str]:
    """Every module that is imported at run time, wherever in the file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(path: Path) -> str:
    parts = path.relative_to(ROOT / "harness").parts
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [p for p in CODE if relative(p).startswith("harness/")], ids=relative)
def test_layers(path: Path) -> None:
    own = layer(path)
    if own in TOP or own == "__init__":
        return
    allowed = LAYERS.get(own, PURE if own in PURE else set()) | {own, "__version__"}
    for name in imports(path):
        assert not name.startswith(("controller", "demo")), f"{relative(path)} imports {name}"
        if name.startswith("harness."):
            target = name.split(".")[1]
            assert target in allowed, f"{relative(path)} ({own}) imports {name}"


def test_controller_takes_only_the_wire_from_harness() -> None:
    """And how a server listens, which has no second place."""
    allowed = {
        "messages",
        "probe",
        "values",
        "decode",
        "errors",
        "clock",
        "invitation",
        "ca",
        "check",
        "check_problems",
        "lean_imports",
    }
    allowed |= {"backoff", "status", "missing", "ending", "reading", "yaml_text", "json_text", "texts"}
    allowed |= {"arguments", "phrases", "terminal", "times", "trust"}
    # What both ends of a connection do with their sockets.
    sockets = ("harness.system.listening", "harness.system.dead_peer")
    for path in (ROOT / "controller").rglob("*.py"):
        names = {name for name in imports(path) if not name.startswith(sockets)}
        taken = {name.split(".")[1] for name in names if name.startswith("harness.")}
        assert taken <= allowed | {"__version__"}, f"{relative(path)} imports harness.{taken - allowed}"


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_outside_libraries_stay_in_their_place(path: Path) -> None:
    for name in imports(path):
        places = OUTSIDE.get(name.split(".")[0])
        if places is not None and not relative(path).startswith("tests/"):
            assert relative(path).startswith(places), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_servers_get_their_sockets_from_one_place(path: Path) -> None:
    """Given host and port, asyncio and aiohttp make of `[::]` a socket for IPv6 alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            given = {keyword.arg for keyword in node.keywords}
            listens = node.func.attr in ("create_server", "start_server") and "sock" not in given
            assert not listens and node.func.attr != "TCPSite", f"{relative(path)}:{node.lineno} (see system/listening.py)"


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300, f"{relative(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{relative(path)}:{node.name} has {lines} lines"


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_the_compiler_has_nothing_to_say(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(path.read_bytes(), path, "exec", dont_inherit=True)


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{relative(path)} has no docstring"


def test_no_mocks_no_catch_alls_no_leftovers() -> None:
    words = ("unittest" + ".mock", "Magic" + "Mock", "monkey" + "patch.")
    catch_alls = [
        relative(path)
        for path in CODE
        if relative(path) != "harness/tasks.py"  # which tells of each, and raises it as an InternalError
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(n, ast.Raise) and n.exc is None for n in ast.walk(node))
    ]
    assert catch_alls == [], "a catch-all that does not raise again hides bugs"
    for path in ALL:
        text = path.read_text()
        for word in words:
            assert word not in text, f"{relative(path)} uses {word}"
        assert not re.search(r"\b(TO" r"DO|FIX" r"ME)\b", text), f"{relative(path)} has something left open"


def test_nothing_depends_on_what_else_runs_on_this_machine() -> None:
    """Two runs at once, or a run next to a demo, share processes, /tmp and /run."""
    shared = re.compile(r"\b(pgrep|pkill|killall|gettempdir)\b|TMPDIR:-/tmp\}/\w")
    for path in (*ALL, ROOT / "setup", ROOT / "tests" / "run", ROOT / ".ci" / "run"):
        for line in path.read_text().splitlines():
            # A machine that a test has booted runs nothing else.
            assert not shared.search(line) or "vm.run(" in line or "shared =" in line, f"{relative(path)}: {line.strip()}"


def test_the_reference_pages_are_what_the_tables_say() -> None:
    from harness import reference

    for name, render in reference.PAGES.items():
        assert (ROOT / "docs" / name).read_text() == render(), f"docs/{name} is stale: run `make docs`"


def test_pauses_after_failures_are_computed_in_one_place() -> None:
    """A pause that somebody doubles, or takes a power for, overflows one day: `backoff.Backoff` cannot."""

    def grows(node: ast.AST) -> bool:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return not isinstance(node.right, ast.Constant)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "min":
            return any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) and _doubles(part) for part in node.args)
        return isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult) and ast.unparse(node.value) == "2"

    own = ROOT / "harness" / "backoff.py"
    found = [relative(path) for path in CODE if path != own and any(map(grows, ast.walk(ast.parse(path.read_text()))))]
    assert found == []


def _doubles(product: ast.BinOp) -> bool:
    return "2" in (ast.unparse(product.left), ast.unparse(product.right))


READ_WHOLE = {
    # the kernel's own files, and our own page
    "harness/daemon/machine.py",
    "harness/system/procfs.py",
    "harness/system/process.py",
    "harness/system/redirect_exclusions.py",
    "harness/system/tcp_sockets.py",
    "harness/system/ssh_daemons.py",
    "harness/system/iptables_save.py",
    "harness/system/xtables.py",
    "harness/system/units.py",
    "harness/check/firewall_facts.py",
    "harness/reference.py",
    "controller/fleet_page.py",
    "harness/system/files.py",  # /proc/locks
}
OPENED = {
    "harness/reading.py",
    "harness/system/process.py",
    # what an operator gives a command by hand may be a pipe
    "harness/join_cli.py",
    "harness/config_cli.py",
    # one that was looked at before
    "harness/container_workload.py",
    "harness/system/proxy_store.py",
}


def _reads(node: ast.Call) -> str:
    """`whole` or `opened`, for a call that reads a file by its name in a way that a pipe would hold up."""
    if not isinstance(node.func, ast.Attribute):
        return "opened" if ast.unparse(node.func) == "open" else ""
    if node.func.attr in ("read_text", "read_bytes") and not node.args:
        return "whole"
    mode = ast.unparse(node.args[0]) if node.args else "'r'"
    is_file = node.func.attr == "open" and ast.unparse(node.func.value) not in ("os", "tarfile", "opener")
    return "opened" if is_file and mode in ("'r'", "'rb'") else ""


def test_files_are_read_in_one_place() -> None:
    """A plain open waits for ever where a pipe has taken a file's place, and a device gives bytes without an end."""
    allowed = {"whole": READ_WHOLE, "opened": OPENED}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and not relative(path).startswith("demo/") and (how := _reads(node)):
                assert relative(path) in allowed[how], f"{relative(path)}:{node.lineno} (see harness/reading.py)"
