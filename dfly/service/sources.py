"""What a manager and a peer have in common when they ask sources on behalf of others: which source
fits a wish, how much a wish weighs, and what is told of an answer. Nothing is fetched here."""
from __future__ import annotations

from dfly.access import Access
from dfly.service.ingest import Content
from dfly.service.intake import vouched_lengths
from dfly.source import Source
from dfly.source.mirrors import MirrorSource
from dfly.source.span import SpanSource
from dfly.task import TaskSpec, piece_size_for
from dfly.wire.messages import Accepted


def source_for(spec: TaskSpec, source: Source) -> Source:
    """The source that gives what the spec names: of one or several places, all or a part of it."""
    if spec.mirrors:
        vouched = spec.vouched if spec.vouched is not None and spec.vouched.fits else None
        source = MirrorSource(source, (spec.url, *spec.mirrors),
                              checked=spec.digest is not None or vouched is not None,
                              sealed=spec.digest is not None,
                              lengths=vouched_lengths(vouched) if vouched else None)
    if spec.span is not None:
        source = SpanSource(source, spec.span)
    return source


def weight_of(spec: TaskSpec, access: Access) -> int:
    """Bytes that a wish takes while it waits, beside the fixed ones."""
    texts = [spec.url, *spec.mirrors, *access.cookies, access.tls.ca, access.tls.crl,
             *(part for pair in access.headers for part in pair)]
    return sum(map(len, texts)) + (len(spec.vouched.values) if spec.vouched else 0)


def looked(request: int, spec: TaskSpec, content: Content) -> Accepted:
    """The answer to one who only looks."""
    return Accepted(request, 0, spec.task_id, content.version.token, content.length,
                    piece_size_for(content.length, spec.vouched), facts=content.facts)
