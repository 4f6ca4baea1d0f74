"""The config server: which managers are there, and what hosts of this cluster are set to.

    POST /v1/managers   a manager registers, and again as its heartbeat
    GET  /v1/managers?location=eu/dc1   the managers, the nearest first, and the settings

Registrations are forgotten when they fall silent, so there is no state to lose: managers say
again who they are. `Registry` is also embedded in every manager that knows no config server; such
a manager registers with itself, so `dfly serve` alone is a working cluster.
"""
from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

from dfly import __version__
from dfly.clock import Clock
from dfly.config import (
    CONFIG_PORT,
    MANAGER_PORT,
    ConfigSettings,
    ServeSettings,
    read_file,
    split_address,
)
from dfly.core.cost import labels_of, levels_shared
from dfly.errors import DflyError, NetworkError, ProtocolError, UsageError, printable
from dfly.names import join_address
from dfly.net.http_client import HttpClient
from dfly.net.http_server import HttpServer, Request, Response, error_response, json_response
from dfly.net.mover import Movers
from dfly.service.metrics import METRICS_TYPE, Metrics
from dfly.service.runtime import Ready, Tasks, run_role

log = logging.getLogger("dfly.config")

REGISTRATION_MAX = 64 * 1024   # bytes of one POST
MANAGERS_MAX = 1_000
TEXT_MAX = 256                 # characters of a name, address or location
EXPIRE_S = 30.0
BEATS = 3                      # heartbeats within EXPIRE_S
ANSWER_S = 5.0


@dataclass
class Registration:
    address: str
    name: str
    location: str
    heard_at: float


class Registry:
    """Managers by address, with the time each was heard of."""

    def __init__(self, clock: Clock, expire_s: float = EXPIRE_S,
                 settings: Optional[Dict[str, Dict[str, str]]] = None) -> None:
        self._clock = clock
        self._expire_s = expire_s
        self._settings = settings or {}
        self._known: Dict[str, Registration] = {}

    def register(self, address: str, name: str, location: str) -> None:
        """`address` is host:port; UsageError if it can't be one, or if there are too many."""
        clean = join_address(*split_address(address, MANAGER_PORT))
        self._expire()
        if clean not in self._known and len(self._known) >= MANAGERS_MAX:
            raise UsageError(f"{MANAGERS_MAX} managers are registered: no more")
        fresh = Registration(clean, printable(name), printable(location), self._clock.now())
        if clean not in self._known:
            log.info("manager %s (%s) registered", fresh.name, clean)
        self._known[clean] = fresh

    def ranked(self, location: str) -> List[Registration]:
        """The managers that are alive, the nearest to `location` first."""
        self._expire()
        here = labels_of(location)
        return sorted(self._known.values(), key=lambda known: (
            -levels_shared(here, labels_of(known.location)), known.address))

    def _expire(self) -> None:
        oldest = self._clock.now() - self._expire_s
        for address, known in list(self._known.items()):
            if known.heard_at < oldest:
                log.warning("manager %s (%s) fell silent", known.name, address)
                del self._known[address]

    # ------------------------------------------------------------------------------ HTTP
    async def answer(self, request: Request) -> Response:
        """`/v1/managers`, both methods."""
        if request.method in ("GET", "HEAD"):
            return json_response({
                "managers": [{"address": known.address, "name": known.name,
                              "location": known.location}
                             for known in self.ranked(request.query.get("location", ""))],
                "settings": self._settings})
        if request.method != "POST":
            return Response(405, [("Allow", "GET, POST")], b"method not allowed\n")
        try:
            address, name, location = _registration(await request.read_body(REGISTRATION_MAX))
            if address.startswith(":"):
                address = join_address(request.remote[0], int(address[1:]))
            self.register(address, name, location)
        except DflyError as error:
            return error_response(error, 400)
        return json_response({"heartbeat_s": self._expire_s / BEATS})


def _registration(body: bytes) -> Tuple[str, str, str]:
    """(address, name, location) of a POST. An address ":PORT" means the sender's own."""
    try:
        told = json.loads(body)
        address, name = told["address"], told.get("name", "")
        location = told.get("location", "")
        if not all(isinstance(text, str) and len(text) <= TEXT_MAX
                   for text in (address, name, location)):
            raise TypeError("a field that is no short text")
        if address.startswith(":") and not 0 < int(address[1:]) < 65536:
            raise ValueError(f"port {address}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"malformed registration: {error!r}") from None
    return address, name, location


class Registrar:
    """A manager's side: registers with its config server, or with its own registry."""

    def __init__(self, settings: ServeSettings, client: HttpClient, own: Registry) -> None:
        self._settings = settings
        self._client = client
        self._own = own
        self._warned = ""

    async def start(self, port: int, tasks: Tasks) -> None:
        """Register once now (a config server that doesn't answer is tried again) and keep on."""
        heartbeat_s = await self._register(port)
        tasks.start(self._keep(port, heartbeat_s))

    async def _keep(self, port: int, heartbeat_s: float) -> None:
        while True:
            await asyncio.sleep(heartbeat_s)
            heartbeat_s = await self._register(port)

    async def _register(self, port: int) -> float:
        """One registration; seconds until the next."""
        settings = self._settings
        listens_on = "" if settings.listen in ("0.0.0.0", "::") else settings.listen
        if not settings.config:
            host = listens_on or "127.0.0.1"
            self._own.register(settings.address or join_address(host, port), settings.name,
                               settings.location)
            return EXPIRE_S / BEATS
        address = settings.address or (join_address(listens_on, port) if listens_on
                                       else f":{port}")
        try:
            return await self._post({"address": address, "name": settings.name,
                                     "location": settings.location})
        except DflyError as error:
            if str(error) != self._warned:
                log.warning("config server %s: %s", settings.config, error)
            self._warned = str(error)
            return EXPIRE_S / BEATS / 2

    async def _post(self, registration: Dict[str, str]) -> float:
        host, port = split_address(self._settings.config, CONFIG_PORT)
        response = await self._client.request(
            "POST", f"http://{join_address(host, port)}/v1/managers",
            [("Content-Type", "application/json")], json.dumps(registration).encode(),
            timeout_s=ANSWER_S)
        try:
            body = await response.read(REGISTRATION_MAX)
        finally:
            response.release()
        try:
            answer: Any = json.loads(body)
            if response.status != 200:
                raise NetworkError(f"it answered {response.status}: {answer.get('error', '')}")
            self._warned = ""
            return min(max(1.0, float(answer["heartbeat_s"])), EXPIRE_S)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ProtocolError("its answer isn't a config server's") from None


# ---------------------------------------------------------------------------------- the role
class ConfigServer:
    """The role of its own: `dfly config`."""

    def __init__(self, settings: ConfigSettings) -> None:
        self._settings = settings
        self._clock = Clock()
        self._metrics = Metrics()
        self._started_at = self._clock.now()
        values = read_file(settings.cluster_settings) if settings.cluster_settings else {}
        self._registry = Registry(self._clock, settings.expire_s, values)

    async def main(self, stop: asyncio.Event, ready: Ready) -> None:
        movers = Movers(1)
        movers.start(asyncio.get_running_loop())
        server = HttpServer(self._on_request, movers)
        try:
            port = await server.listen_tcp(self._settings.listen, self._settings.port)
            log.info("dfly %s config server: port %d", __version__, port)
            ready(join_address(self._settings.listen, port))
            await stop.wait()
        finally:
            await server.close(1.0)
            movers.stop()

    async def _on_request(self, request: Request) -> Response:
        if request.path == "/v1/managers":
            return await self._registry.answer(request)
        if request.method not in ("GET", "HEAD"):
            return Response(405, [("Allow", "GET, HEAD")], b"method not allowed\n")
        pages: Dict[str, Callable[[], Response]] = {
            "/healthz": lambda: Response(200, body=b"ok\n"), "/metrics": self._metrics_page,
            "/v1/status": self._status,
        }
        page = pages.get(request.path)
        return page() if page is not None else Response(404, body=b"not found\n")

    def _metrics_page(self) -> Response:
        self._metrics.set("dfly_build_info", 1, version=__version__, role="config")
        return Response(200, [("Content-Type", METRICS_TYPE)], self._metrics.render())

    def _status(self) -> Response:
        return json_response({
            "role": "config", "version": __version__,
            "uptime_s": round(self._clock.now() - self._started_at, 1),
            "managers": [{"address": known.address, "name": known.name,
                          "location": known.location} for known in self._registry.ranked("")]})


def run(settings: ConfigSettings, ready: Callable[[str], None]) -> int:
    """The config server, until it is told to stop; its exit code."""
    async def role(stop: asyncio.Event) -> None:
        await ConfigServer(settings).main(stop, ready)
    return run_role(role)
