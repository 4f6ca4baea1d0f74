"""How a peer finds its managers: those that its settings name, then those of a config server.

The config server is asked now and then; its last good answer is kept on disk and used while no
server answers, so a config server's outage is nobody's outage.
"""
from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from typing import Any, Callable, Dict, List
from urllib.parse import quote

from dfly.config import CONFIG_PORT, MANAGER_PORT, PeerSettings, split_address
from dfly.errors import DflyError, NetworkError, ProtocolError, UsageError
from dfly.names import join_address
from dfly.net.http_client import HttpClient
from dfly.service.managers import Address, Managers
from dfly.service.runtime import Tasks

log = logging.getLogger("dfly.discovery")

LOOK_EVERY_S = 60.0      # between looks at the config server
ANSWER_S = 3.0
ANSWER_MAX = 1 << 20     # bytes
CACHE_NAME = "managers.json"


class Discovery:
    """Keeps `managers` up to date, and hands the cluster's settings to `follow`."""

    def __init__(self, settings: PeerSettings, client: HttpClient, managers: Managers,
                 follow: Callable[[Dict[str, str]], None]) -> None:
        self._settings = settings
        self._client = client
        self._managers = managers
        self._follow = follow
        self._cache = os.path.join(settings.store, CACHE_NAME)
        self._named: List[Address] = [split_address(text, MANAGER_PORT)
                                      for text in settings.manager]
        self._rng = random.Random()

    async def start(self, tasks: Tasks) -> None:
        """Know the managers that can be known now; go on looking."""
        self._managers.update(self._named)
        if self._settings.config:
            await self._look()
            tasks.start(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S * self._rng.uniform(0.8, 1.2))
            await self._look()

    async def _look(self) -> None:
        try:
            answer = await self._ask()
        except DflyError as error:
            log.warning("config server %s: %s", self._settings.config, error)
            answer = await asyncio.to_thread(_read, self._cache)
        else:
            await asyncio.to_thread(_write, self._cache, answer)
        self._managers.update(list(dict.fromkeys([*self._named, *_addresses(answer)])))
        values = answer["settings"].get("peer", {})
        if isinstance(values, dict) and values:
            self._follow({str(key): str(value) for key, value in values.items()})

    async def _ask(self) -> Dict[str, Any]:
        host, port = split_address(self._settings.config, CONFIG_PORT)
        response = await self._client.request(
            "GET", f"http://{join_address(host, port)}/v1/managers"
                   f"?location={quote(self._settings.location)}", timeout_s=ANSWER_S)
        try:
            body = await response.read(ANSWER_MAX)
        finally:
            response.release()
        if response.status != 200:
            raise NetworkError(f"it answered {response.status}", "is that a config server?")
        return _checked(body)


def _checked(body: bytes) -> Dict[str, Any]:
    """A config server's answer: {"managers": [...], "settings": {...}}, or ProtocolError."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("the answer isn't JSON") from None
    if (not isinstance(answer, dict) or not isinstance(answer.get("managers"), list)
            or not isinstance(answer.get("settings"), dict)):
        raise ProtocolError("the answer has another shape than a config server's")
    return answer


def _addresses(answer: Dict[str, Any]) -> List[Address]:
    found: List[Address] = []
    for entry in answer["managers"]:
        try:
            found.append(split_address(entry["address"], MANAGER_PORT))
        except (UsageError, KeyError, TypeError, AttributeError) as error:
            log.warning("the config server named a manager that can't be: %s", error)
    return found


def _read(path: str) -> Dict[str, Any]:
    nothing: Dict[str, Any] = {"managers": [], "settings": {}}
    try:
        with open(path, "rb") as file:
            return _checked(file.read(ANSWER_MAX))
    except FileNotFoundError:
        return nothing
    except (OSError, ProtocolError) as error:
        log.warning("%s: %s", path, error)
        return nothing


def _write(path: str, answer: Dict[str, Any]) -> None:
    fresh = f"{path}.new"
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(fresh, path)
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)
