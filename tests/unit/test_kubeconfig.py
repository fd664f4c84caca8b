"""Which cluster and which user a command's flags and the kubeconfig files lead to."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.kubernetes import flags, kubeconfig
from controller.kubernetes.access import Impersonated
from harness.errors import ConfigError, UsageError
from tests.controller_support import Authority


def write(path: Path, names: str, current: str = "", **user: Any) -> Path:
    """A file with one context, cluster and user of each name."""
    cluster = {"server": f"https://{path.stem}.example", "certificate-authority": "ca.pem"}
    data = {
        "contexts": [{"name": n, "context": {"cluster": n, "user": n, "namespace": f"{n}-ns"}} for n in names.split()],
        "clusters": [{"name": n, "cluster": cluster} for n in names.split()],
        "users": [{"name": n, "user": {"token": path.stem, **user}} for n in names.split()],
        "current-context": current,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def test_several_files_are_merged_and_the_first_that_has_a_name_decides(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a" / "one", "dev"), write(tmp_path / "b" / "two", "dev prod", current="prod")
    usual = kubeconfig.usual({"KUBECONFIG": os.pathsep.join(map(str, (tmp_path / "none", one, two)))})
    found = kubeconfig.choose(usual)
    assert found.namespace == "prod-ns" and found.cluster.values["server"] == "https://two.example"
    assert found.cluster.folder == two.parent, "relative paths start from the file that has them"
    assert kubeconfig.choose(usual, "dev").user.values["token"] == "one"
    with pytest.raises(ConfigError, match=r"there is no context 'test'; there are: dev, prod"):
        kubeconfig.choose(usual, "test")


def test_files_that_are_not_there_or_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none") as raised:
        kubeconfig.choose(kubeconfig.usual({"KUBECONFIG": f"{tmp_path}/none"}))
    (fault,) = raised.value.faults
    assert fault.message == "cannot be read: No such file or directory" and "--kubeconfig FILE" in fault.hint
    assert kubeconfig.usual({"HOME": str(tmp_path)}) == (tmp_path / ".kube" / "config",)
    path = write(tmp_path / "one", "dev")
    with pytest.raises(ConfigError, match=r"current-context: not set, and no --context is given; there are: dev"):
        kubeconfig.choose([path])
    for text in ("[]", "{", "contexts: 3", "contexts: [3]", "users: [{name: a, user: 3}]", "contexts: {a: b}"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            kubeconfig.choose([path], "dev")


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ((), ()),
        (("--as-group=a", "--as-group=b"), ("a", "b")),
        (("--as-group=[]",), ()),
        (("--as-group=[system:masters]",), ("system:masters",)),
        (('--as-group=[a,"b,c"]',), ("a", "b,c")),
    ],
)
def test_who_asks_as_people_and_as_linkerd_say_it(tmp_path: Path, words: tuple[str, ...], groups: tuple[str, ...]) -> None:
    Authority(tmp_path, "ca")
    path = write(tmp_path / "config", "dev", current="dev")
    found = flags.find(options(f"--kubeconfig={path}", "--as=jane", *words))
    assert found.impersonated == Impersonated("jane", groups)
    if groups:
        with pytest.raises(UsageError, match="--as-group needs --as"):
            flags.find(options(f"--kubeconfig={path}", *words))
    # A user of the file may ask for another one too; the flags stand over it.
    path = write(tmp_path / "config", "dev", current="dev", **{"as": "joe", "as-groups": ["x"]})
    assert flags.find(options(f"--kubeconfig={path}")).impersonated == Impersonated("joe", ("x",))
    assert flags.find(options(f"--kubeconfig={path}", "--as=jane")).impersonated == Impersonated("jane")
