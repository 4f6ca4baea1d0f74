"""A source over HTTP: one request with its redirects and challenges, and the body of its answer.

What an answer means is answers.py's, what a request carries on behalf of its caller visit.py's,
where redirects lead hops.py's. What to do about a refusal (again, later, another way) is the
business of ingest. Retrying, pieces and files may not be here.
"""
from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Set, Tuple

from dfly.access import SourceFacts
from dfly.clock import Clock
from dfly.errors import (
    AuthError,
    DflyError,
    NetworkError,
    ProtocolError,
    ServerError,
    TlsError,
)
from dfly.net.route import ProxyDenied
from dfly.source import SourceRefused, SourceRequest, Version, shown_url
from dfly.source.answers import Span, answer_of, is_bare_nothing, refusal_of
from dfly.source.facts import facts_of_answer
from dfly.source.hops import Hop, redirect_target
from dfly.source.visit import Outfit, Visit
from dfly.wire.http11 import HttpError

if TYPE_CHECKING:
    from dfly.net.http_client import ClientResponse, HttpClient
    from dfly.net.limiter import Limiter
    from dfly.net.transfer import Sink

log = logging.getLogger(__name__)

DISCARDED_MAX = 16 * 1024  # bytes: shorter bodies of no use are read, to keep the connection
DISCARD_S = 5.0            # but not for longer than a new connection would take
TLS_ALERT = repr(b"\x15\x03")[:-1]   # how a TLS server answers to plain text


class HttpSource:
    """Opens http and https URLs. What it learns while it does (logins asked for, cookies) serves
    its next requests for the same Access, and those of no other."""

    def __init__(self, client: HttpClient, *, clock: Optional[Clock] = None) -> None:
        self._client = client
        self._clock = clock or Clock()
        self._visit: Optional[Visit] = None

    async def open(self, request: SourceRequest) -> HttpBody:
        """See Source.open."""
        try:
            return await self._open(request)
        except (NetworkError, ServerError, AuthError) as error:
            if not request.shortcut:
                raise
            # Where a redirect leads is often good for a while only: ask for the way again.
            log.info("%s; asking %s for the way again", error.what, shown_url(request.url))
        return await self._open(replace(request, shortcut=""))

    async def _open(self, request: SourceRequest) -> HttpBody:
        if self._visit is None or self._visit.access != request.access:
            self._visit = Visit(request.access)
        way = _Way(self._client, self._visit, request)
        hop = Hop.first(request.url)
        if request.shortcut:
            hop = hop.to(request.shortcut)
        while True:
            response = await way.ask(hop)
            try:
                target = redirect_target(hop.url, response)
                if target is None and way.request.is_ranged and is_bare_nothing(response.head):
                    way.request = replace(way.request, start=0, stop=None)
                    await _discard(response)
                    continue
                if target is None:
                    return self._judge(response, hop, way)
                next_hop = hop.to(target)
                way.turn(next_hop, response.status)
                await _discard(response)
                hop = next_hop
            except BaseException:
                response.release()
                raise

    def _judge(self, response: ClientResponse, hop: Hop, way: _Way) -> HttpBody:
        """The answer as a body, or the error that it means."""
        answer = answer_of(response.head, way.request, hop.url)
        if answer is None:
            raise refusal_of(response.head, way.request, way.sent, hop.url, self._clock.wall())
        return HttpBody(response, answer, hop, way)


class _Way:
    """One request with all its redirects and challenges, until there is an answer to judge."""

    def __init__(self, client: HttpClient, visit: Visit, request: SourceRequest) -> None:
        self.request = request
        self.visit = visit
        self.told = False    # a secret was sent on the way
        self.sent: Outfit    # with the last request
        self._client = client
        self._asked: Set[Tuple[str, str]] = set()    # URLs, with the cookies that were sent
        self._turns = 0

    async def ask(self, hop: Hop) -> ClientResponse:
        """The answer to a hop; challenges for a login that we have are met before."""
        answers: Dict[str, int] = {}
        while True:
            sent = self.sent = self.visit.outfit(hop)
            self._asked.add((hop.url, sent.cookie))
            try:
                response = await self._request(hop, sent)
            except ProxyDenied as error:
                if self.visit.met_proxy(sent, error.challenges, _count(answers, "proxy")):
                    continue
                raise AuthError(f"can't fetch {shown_url(hop.url)}: {error.what}",
                                error.hint) from None
            self.told = self.told or sent.secret
            self.visit.heard(hop, sent, response)
            try:
                if not self._is_met(hop, response, answers):
                    return response
                await _discard(response)
            except BaseException:
                response.release()
                raise

    def _is_met(self, hop: Hop, response: ClientResponse, answers: Dict[str, int]) -> bool:
        if response.status == 401:
            return self.visit.met(hop, self.sent, response.headers.all("WWW-Authenticate"),
                                  _count(answers, "source"))
        if response.status == 407:
            return self.visit.met_proxy(self.sent, response.headers.all("Proxy-Authenticate"),
                                        _count(answers, "proxy"))
        return False

    async def _request(self, hop: Hop, sent: Outfit) -> ClientResponse:
        try:
            return await self._client.request(
                "GET", hop.url, [*sent.headers, *_conditions(self.request)],
                timeout_s=self.visit.read_timeout_s, route=sent.route)
        except (NetworkError, TlsError, ProtocolError) as error:
            # Said anew with the URL; `from None` because the first line says it all.
            raise _kind_of(error)(f"can't fetch {shown_url(hop.url)}: {error.what}",
                                  error.hint or _hint_for(error)) from None

    def turn(self, hop: Hop, status: int) -> None:
        """A redirect leads to `hop`: an error if that is no good."""
        redirects_max = self.visit.access.manners.max_redirects
        self._turns += 1
        asked = shown_url(self.request.url)
        if self._turns > redirects_max:
            what = (f"more than {redirects_max} redirects" if redirects_max else
                    f"redirects to {shown_url(hop.url)}, which isn't to be followed")
            raise SourceRefused(f"{asked}: {what}", "allow more redirects, or tell the source's "
                                "administrator", status)
        # With another cookie the same URL may have another answer.
        if (hop.url, self.visit.jar.header(hop.url)[0]) in self._asked:
            raise ProtocolError(f"{asked}: redirects in a loop, again to {shown_url(hop.url)}",
                                "tell the source's administrator")


def _count(answers: Dict[str, int], whose: str) -> int:
    """How many challenges were met before this one."""
    before = answers.get(whose, 0)
    answers[whose] = before + 1
    return before


class HttpBody:
    """SourceBody over a response."""

    def __init__(self, response: ClientResponse, answer: Tuple[Span, Version], hop: Hop,
                 way: _Way) -> None:
        span, self.version = answer
        self.total = span.total
        self.start = span.start
        self.stop = span.stop
        self.ranged = response.status == 206
        self.unchanged = response.status == 304
        self.final_url = hop.url
        self.redirected = hop.redirected
        # Where a shortcut leads may have been told for a secret; then it is one, too.
        self.authorised = way.told or (bool(way.request.shortcut) and way.visit.was_told)
        self._visit = way.visit
        self._head = response.head
        self._response: Optional[ClientResponse] = response
        if span.start == span.stop:    # nothing of use is to come
            response.release()
            self._response = None

    @property
    def facts(self) -> SourceFacts:
        """See SourceBody.facts."""
        cookies = self._visit.jar.lines() if self._visit.access.wants_cookies else ()
        return facts_of_answer(self._head, self.final_url, cookies)

    async def receive(self, sink: Sink, limits: Sequence[Limiter] = ()) -> int:
        """See SourceBody.receive. The connection is kept if all went well, else closed."""
        response, self._response = self._response, None
        if response is None:
            sink.finish()
            return 0
        try:
            return await response.receive(sink, limits, idle_timeout_s=self._visit.read_timeout_s)
        except NetworkError as error:
            raise NetworkError(f"{shown_url(self.final_url)}: {error.what}",
                               error.hint) from None
        except HttpError as error:    # the framing of the body, not what its bytes mean
            raise ProtocolError(f"{shown_url(self.final_url)}: {error.what}",
                                "tell the source's administrator") from None
        finally:
            response.release()

    async def close(self) -> None:
        if self._response is not None:
            self._response.release()
            self._response = None


# --------------------------------------------------------------------------------- requests
def _conditions(request: SourceRequest) -> List[Tuple[str, str]]:
    """The headers that dfly itself asks by."""
    headers = [("Accept-Encoding", "identity")]
    if request.is_ranged:
        last = "" if request.stop is None else str(request.stop - 1)
        headers.append(("Range", f"bytes={request.start}-{last}"))
        if request.if_version is not None and request.if_version.range_condition:
            headers.append(("If-Range", request.if_version.range_condition))
    if request.unless is not None and request.unless.etag:
        headers.append(("If-None-Match", request.unless.etag))
    elif request.unless is not None and request.unless.last_modified:
        headers.append(("If-Modified-Since", request.unless.last_modified))
    return headers


async def _discard(response: ClientResponse) -> None:
    """Read a short body away so that the connection lives; close on any other."""
    length = response.headers.get("Content-Length") or ""
    try:
        if length.isdigit() and int(length[:9]) <= DISCARDED_MAX:
            await asyncio.wait_for(response.read(DISCARDED_MAX), DISCARD_S)
    except (asyncio.TimeoutError, NetworkError, ProtocolError):
        pass  # the body was of no use; the connection is closed, and the next one tells
    finally:
        response.release()


def _hint_for(error: DflyError) -> str:
    if not isinstance(error, HttpError):
        return ""
    if TLS_ALERT in error.what:
        return "it speaks TLS there: an https:// URL?"
    return "is an HTTP server there?"


def _kind_of(error: DflyError) -> type[DflyError]:
    for kind in (TlsError, ProtocolError):
        if isinstance(error, kind):
            return kind
    return NetworkError
