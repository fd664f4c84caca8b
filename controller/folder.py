"""A directory of manifests in the role of `kubectl apply`: what is in it is in the store, what leaves it leaves the store."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping

from controller.manifest import GROUP_API, GROUP_APIS, GROUP_KIND, ExternalGroup, group_from_object
from controller.store import Store
from harness import reading, yaml_text
from harness.errors import ConfigError, Fault

_State = tuple[object, ...]


class Folder:
    def __init__(self, path: str, store: Store) -> None:
        self._path, self._store = pathlib.Path(path), store
        self._applied: _State | None = None
        self._seen: _State | None = None
        self._lock = asyncio.Lock()

    async def follow(self) -> bool:
        """Applies a change once it has stood since the last call: a file that is being written is not yet what was meant.

        True when anything was applied. Raises ConfigError as `apply` does, once for each change.
        """
        before, self._seen = self._seen, await asyncio.to_thread(self._state)
        if self._seen != before or self._seen == self._applied:
            return False
        return await self.apply()

    async def apply(self) -> bool:
        """False when the files changed while they were read. Raises ConfigError with all faults; then nothing is changed."""
        async with self._lock:
            state = await asyncio.to_thread(self._state)
            groups = await asyncio.to_thread(self._read, state)
            if groups is None:
                return False
            await self._write(groups)
            return True

    async def _write(self, groups: list[ExternalGroup]) -> None:
        for api, collection in (
            (api, self._store.groups if api == GROUP_API else self._store.buoyant_groups) for api in GROUP_APIS
        ):
            wanted = {group.key: group for group in groups if group.api_version == api}
            stored = {group.key: group for group in (await collection.list()).items}
            for key in stored.keys() - wanted.keys():
                await collection.delete(key)
            for key, group in wanted.items():
                if key not in stored:
                    await collection.create(group)
                    continue
                metadata = dataclasses.replace(group.metadata, resource_version=stored[key].metadata.resource_version)
                await collection.replace(dataclasses.replace(group, metadata=metadata))

    def _files(self) -> list[pathlib.Path]:
        return sorted(path for path in self._path.iterdir() if path.suffix in (".yaml", ".yml", ".json"))

    def _state(self) -> _State:
        try:
            return tuple((path, (stat := path.stat()).st_mtime_ns, stat.st_size, stat.st_ino) for path in self._files())
        except OSError as error:
            raise ConfigError((Fault("", str(error)),), str(self._path)) from None

    def _read(self, state: _State) -> list[ExternalGroup] | None:
        groups: dict[object, ExternalGroup] = {}
        faults: list[Fault] = []
        for path in self._files():
            for index, document in enumerate(self._documents(path, faults)):
                # Manifests of a cluster lie together: Services and routes are not ours to read.
                if not isinstance(document, Mapping) or document.get("kind") != GROUP_KIND:
                    continue
                place = f"{path.name}[{index}]"
                try:
                    group = group_from_object(document, source=place)
                except ConfigError as error:
                    faults.extend(dataclasses.replace(fault, path=f"{place}.{fault.path}") for fault in error.faults)
                    continue
                if (group.api_version, group.key) in groups:
                    faults.append(Fault(place, f"{group.key} occurs twice"))
                groups[group.api_version, group.key] = group
        if self._state() != state:
            return None
        self._applied = state
        if faults:
            raise ConfigError(tuple(faults), str(self._path))
        return list(groups.values())

    def _documents(self, path: pathlib.Path, faults: list[Fault]) -> Iterable[object]:
        try:
            return yaml_text.documents(reading.text(path))
        except (OSError, ValueError) as error:
            faults.append(Fault(path.name, str(error)))
            return []
