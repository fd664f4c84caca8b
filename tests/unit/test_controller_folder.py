"""A directory of manifests, while people write into it."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
import yaml

from controller.embedded_store import EmbeddedStore
from controller.folder import Folder
from controller.manifest import GROUP_API
from harness.errors import ConfigError
from tests.controller_support import StandingClock, group_object


def write(path: pathlib.Path, *documents: object) -> None:
    path.write_text(yaml.safe_dump_all(documents))


async def names(store: EmbeddedStore) -> list[str]:
    groups = (await store.groups.list()).items + (await store.buoyant_groups.list()).items
    return sorted(f"{group.api_version.split('.')[1]}:{group.metadata.name}" for group in groups)


def test_what_is_in_the_directory_is_in_the_store(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        store = EmbeddedStore(StandingClock())
        folder = Folder(str(tmp_path), store)
        write(tmp_path / "a.yaml", group_object("face"), {"kind": "Service"}, group_object("face", api=GROUP_API), None)
        write(tmp_path / "b.yml", group_object("smiley"))
        (tmp_path / "notes.txt").write_text("kind: ExternalGroup")
        assert await folder.apply()
        assert await names(store) == ["buoyant:face", "buoyant:smiley", "meshexp:face"]
        before = await store.buoyant_groups.list()
        assert await folder.apply()
        assert await store.buoyant_groups.list() == before
        write(tmp_path / "a.yaml", group_object("face", leaseSeconds=7))
        (tmp_path / "b.yml").unlink()
        assert await folder.apply()
        assert await names(store) == ["buoyant:face"]
        face = (await store.buoyant_groups.list()).items[0]
        assert face.spec.lease_seconds == 7 and face.metadata.uid == before.items[0].metadata.uid

    asyncio.run(main())


def test_a_file_that_is_being_written_is_not_applied(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        store = EmbeddedStore(StandingClock())
        folder = Folder(str(tmp_path), store)
        write(tmp_path / "face.yaml", group_object("face"))
        assert await folder.apply()
        assert not await folder.follow() and not await folder.follow()
        (tmp_path / "face.yaml").write_text("")
        assert not await folder.follow()
        write(tmp_path / "face.yaml", group_object("face"), group_object("smiley"))
        assert not await folder.follow()
        assert await names(store) == ["buoyant:face"]
        assert await folder.follow()
        assert await names(store) == ["buoyant:face", "buoyant:smiley"]
        assert folder._read(("what was there before",)) is None

    asyncio.run(main())


def test_one_bad_file_changes_nothing_and_is_told_once_with_all_faults(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        store = EmbeddedStore(StandingClock())
        folder = Folder(str(tmp_path), store)
        write(tmp_path / "face.yaml", group_object("face"))
        await folder.apply()
        write(tmp_path / "smiley.yaml", group_object("smiley"), group_object("color", leaseSeconds=0))
        (tmp_path / "tabs.yaml").write_text("\t")
        write(tmp_path / "zwice.yaml", group_object("face"))
        await folder.follow()
        with pytest.raises(ConfigError) as caught:
            await folder.follow()
        assert [fault.path for fault in caught.value.faults] == ["smiley.yaml[1].spec.leaseSeconds", "tabs.yaml", "zwice.yaml[0]"]
        assert not await folder.follow()
        assert await names(store) == ["buoyant:face"]

    asyncio.run(main())
