"""Watches a bucket prefix or directory for data that has landed, in Airflow's triggerer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from regraft import sources
from regraft.errors import RegraftError


class Landed(BaseEventTrigger):
    """Fires when the files of a location are others than those last seen, and have stayed so for one look.

    What was last seen is kept with the asset in Airflow's database, so that neither a restart of the triggerer nor
    files that were there before the DAG start a run twice. Files still being uploaded change between two looks.

    Args:
        location: as data.source of a recipe: a URL or path of a file, a glob or a directory.
        seconds: between two looks.
    """

    def __init__(self, *, location: str, seconds: float = 60) -> None:
        super().__init__()
        self.location = location
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.Landed", {"location": self.location, "seconds": self.seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        state = self.asset_state_store
        before = str(await state.aget("seen", default="")) if state else ""
        last = ""
        while True:
            now = await asyncio.to_thread(listing, self.location)
            if now and now == last and now != before:
                before = now
                if state:
                    await state.aset("seen", now)
                yield TriggerEvent({"location": self.location, "listing": now})
            last = now
            await asyncio.sleep(self.seconds)


def listing(location: str) -> str:
    """Digest of the names, sizes and times of a location's files; empty while there is none or it does not answer."""
    total = hashlib.sha256()
    with suppress(RegraftError):
        for system, path in sources.files(location):
            with sources.reading(location):
                info = system.info(path)
            changed = info.get("ETag") or info.get("mtime") or info.get("LastModified") or info.get("last_modified")
            total.update(f"{path}\0{info.get('size')}\0{changed}\n".encode())
        return total.hexdigest()
    return ""
