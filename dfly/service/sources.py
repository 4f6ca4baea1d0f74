"""What a manager and a peer have in common when they ask sources on behalf of others: which source
fits a wish, how much a wish weighs, and what is told of an answer. Nothing is fetched here."""
from __future__ import annotations

from typing import Optional

from dfly.access import Access
from dfly.service.ingest import Content
from dfly.service.intake import vouched_lengths
from dfly.source import Source
from dfly.source.mirrors import MirrorSource
from dfly.source.span import SpanSource
from dfly.task import TaskSpec, piece_size_for
from dfly.wire.messages import LOOK, Accepted, Join

MANAGER_TRIES = 5   # of a source for one Join: whoever wants more joins again


def source_for(spec: TaskSpec, source: Source) -> Source:
    """The source that gives what the spec names: of one or several places, all or a part of it."""
    if spec.mirrors:
        is_sealed = spec.checks is not None or (spec.digest is not None and spec.digest.is_strong)
        source = MirrorSource(source, (spec.url, *spec.mirrors),
                              checked=is_sealed or spec.digest is not None, sealed=is_sealed,
                              lengths=_lengths(spec))
    if spec.span is not None:
        source = SpanSource(source, spec.span)
    return source


def _lengths(spec: TaskSpec) -> Optional[range]:
    """Those that the whole content can have, by what was told beforehand."""
    if spec.size is not None:
        return range(spec.size, spec.size + 1)
    return vouched_lengths(spec.vouched) if spec.vouched is not None else None


def weight_of(spec: TaskSpec, access: Access) -> int:
    """Bytes that a wish takes while it waits, beside the fixed ones."""
    texts = [spec.url, *spec.mirrors, *spec.filters, *access.cookies, *access.origins,
             access.tls.ca, access.tls.crl, *access.tls.pins,
             *(part for pair in access.headers for part in pair),
             *(part for login in access.logins for part in (login.user, login.password))]
    return sum(map(len, texts)) + (len(spec.vouched.values) if spec.vouched else 0)


def looking(spec: TaskSpec, access: Access, request: int) -> Join:
    """A Join that only looks."""
    return Join(request, spec, access=access, flags=LOOK)


def looked(request: int, spec: TaskSpec, content: Content) -> Accepted:
    """The answer to one who only looks."""
    return Accepted(request, 0, spec.task_id, content.version.token, content.length,
                    piece_size_for(content.length, spec.vouched), facts=content.facts)
