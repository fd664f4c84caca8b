"""deploy/playground/certs: all four files or none, on every openssl that people have."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mesh import ROOT

FILES = {"ca.crt", "ca.key", "issuer.crt", "issuer.key"}
CALLS = 13  # of openssl, in one run
# What LibreSSL and OpenSSL 1.1 both have, of what could be used here. With another option or command openssl fails, as theirs do.
COMMON = {
    "ecparam": "-genkey -name -noout -out -param_enc",
    "pkey": "-in -out -pubout -noout",
    "rand": "-hex",
    "req": "-batch -config -days -extensions -in -key -keyout -new -newkey -nodes -noout -out -reqexts -set_serial -sha256 -subj"
    " -x509",
    "verify": "-CAfile",
    "x509": "-CA -CAcreateserial -CAkey -CAserial -days -extensions -extfile -in -noout -out -pubkey -req -set_serial -sha256"
    " -signkey",
}
OLDER = "\n".join([
    "case $1 in",
    *(f'{command}) known=" {options} " ;;' for command, options in COMMON.items()),
    '*) echo "openssl:Error: $1 is an invalid command." >&2; exit 1 ;;',
    "esac",
    'for word in "$@"; do case $word in',
    '-*) case $known in *" $word "*) ;; *) echo "unknown option $word" >&2; exit 1 ;; esac ;;',
    "esac; done",
])  # fmt: skip


def certs(folder: Path, tools: Path | None = None, shell: tuple[str, ...] = ()) -> tuple[int, str]:
    """Exit code and all output."""
    path = f"{tools}:{os.environ['PATH']}" if tools else os.environ["PATH"]
    words = [*shell, str(ROOT / "deploy/playground/certs"), str(folder)]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env={**os.environ, "PATH": path}
    )
    return done.returncode, done.stdout


def openssl(folder: Path, script: str) -> Path:
    """A folder for PATH, whose openssl runs `script` before the real one."""
    folder.mkdir()
    real = subprocess.run(["sh", "-c", "command -v openssl"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "openssl").write_text(f'#!/bin/sh\n{script}\nexec {real} "$@"\n')
    (folder / "openssl").chmod(0o755)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def assert_complete(folder: Path) -> None:
    assert set(contents(folder)) == FILES
    words = ["openssl", "verify", "-x509_strict", "-CAfile", str(folder / "ca.crt"), str(folder / "issuer.crt")]
    subprocess.run(words, check=True, capture_output=True)
    for name in ("ca", "issuer"):
        assert (folder / f"{name}.key").stat().st_mode & 0o77 == 0
        assert (folder / f"{name}.crt").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("shell", [("dash",), ("bash", "--posix")], ids=" ".join)
def test_it_makes_four_files_and_the_second_run_leaves_them(tmp_path: Path, shell: tuple[str, ...]) -> None:
    folder = tmp_path / "a folder" / "certs"
    assert certs(folder, shell=shell) == (0, "")
    assert_complete(folder)
    before = contents(folder)
    assert certs(folder, shell=shell) == (0, "") and contents(folder) == before


def test_it_needs_only_what_libressl_and_openssl_1_1_have(tmp_path: Path) -> None:
    assert certs(tmp_path / "certs", openssl(tmp_path / "bin", OLDER)) == (0, "")
    assert_complete(tmp_path / "certs")


def test_a_folder_with_other_files_keeps_them(tmp_path: Path) -> None:
    """As the folder that `docker run -v` has made, or the current one."""
    (tmp_path / "notes").write_text("mine")
    assert certs(tmp_path) == (0, "")
    assert set(contents(tmp_path)) == {*FILES, "notes"}


@pytest.mark.parametrize("call", range(1, CALLS + 1))
@pytest.mark.parametrize("ends", ["exit 1", "kill -9 $PPID; exit 1"], ids=["openssl fails", "the script is killed"])
def test_what_an_interrupted_run_leaves_is_made_whole_by_the_next(tmp_path: Path, call: int, ends: str) -> None:
    script = f'echo >>{tmp_path}/calls; [ $(wc -l <{tmp_path}/calls) != {call} ] || {{ echo "as told" >&2; {ends}; }}'
    folder = tmp_path / "certs"
    code, said = certs(folder, openssl(tmp_path / "bin", script))
    assert code != 0 and not FILES & set(contents(folder))
    if ends == "exit 1":
        assert "certs: " in said and "as told" in said and list(folder.iterdir()) == []
    assert certs(folder) == (0, "")
    assert_complete(folder)


def test_those_are_all_calls(tmp_path: Path) -> None:
    certs(tmp_path / "certs", openssl(tmp_path / "bin", f"echo >>{tmp_path}/calls"))
    assert len((tmp_path / "calls").read_text().splitlines()) == CALLS


@pytest.mark.parametrize("missing", sorted(FILES))
def test_half_of_the_files_is_no_success(tmp_path: Path, missing: str) -> None:
    assert certs(tmp_path)[0] == 0
    (tmp_path / missing).unlink()
    before = contents(tmp_path)
    code, said = certs(tmp_path)
    assert code == 1 and f"but not {missing}: add what is missing, or remove" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ca.crt", "ca.key is not the key of ca.crt"),
        ("ca.key", "ca.key is not the key of ca.crt"),
        ("issuer.key", "issuer.key is not the key of issuer.crt"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, name: str, said: str) -> None:
    for folder in ("one", "other"):
        certs(tmp_path / folder)
    (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    code, output = certs(tmp_path / "one")
    assert code == 1 and said in output and "remove the four files, and new ones are made" in output


def test_an_issuer_of_another_anchor(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        certs(tmp_path / folder)
    for name in ("issuer.crt", "issuer.key"):
        (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    code, output = certs(tmp_path / "one")
    assert code == 1 and "issuer.crt is not valid below ca.crt: " in output


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("pages", range(1, 7))
def test_a_full_disk_leaves_nothing_and_is_told(tmp_path: Path, pages: int) -> None:
    """Each file takes a page: four of them, the configuration and the request."""
    script = f"""
        mount -t tmpfs -o size={pages * 4}k tmpfs "$0"
        "$1" "$0/certs"
        code=$?
        ls -A "$0/certs"
        exit $code
    """
    words = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), str(ROOT / "deploy/playground/certs")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if pages == 6:
        assert (done.returncode, set(done.stdout.split()), done.stderr) == (0, FILES, "")
    else:
        assert done.returncode != 0 and done.stdout == ""
        assert "No space left on device" in done.stderr or "no space is left on the disk" in done.stderr


def test_without_openssl_it_says_so(tmp_path: Path) -> None:
    words = ["/bin/sh", str(ROOT / "deploy/playground/certs"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (1, "certs: openssl is not on PATH\n")
