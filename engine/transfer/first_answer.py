"""The first request for a file and what its answer is good for.

It asks for the first span, so that its answer is no mere probe: length, validators and ranges are known and the first
bytes are on their way. Only where that answer cannot be built on is the file asked for again, as a whole.
"""

from __future__ import annotations

import trio
from msgspec.structs import replace

from engine.errors import BadRange, TransferError
from engine.net.connection import Exchange
from engine.net.response import Answer, AnswerKind, judge
from engine.transfer.services import Services
from engine.transfer.sources import Source, Sources


async def first_answer(services: Services, sources: Sources) -> tuple[Source, Exchange, Answer]:
    """A range from byte 0 that can be built on, or the whole file, from the first source that gives one; the exchange
    is the caller's to give back.

    Raises BadRange, HttpStatus and whatever the network or the server does wrong.
    """
    while True:
        source = sources.pick(trio.current_time())
        try:
            return source, *await _answer_of(services, source)
        except TransferError as error:
            if not sources.failed(source, error, trio.current_time()):
                raise sources.verdict(error) from error


async def _answer_of(services: Services, source: Source) -> tuple[Exchange, Answer]:
    span = max(services.config.first_span_bytes, services.config.chunk_bytes)
    ranges = False
    for asked in ((0, span), None):
        exchange = await source.open(0 if asked else None, span if asked else None)
        try:
            answer = judge(exchange.head, asked, None)
            if answer.kind is AnswerKind.WHOLE:
                # After a range without a validator: in one piece now, but a range can carry on after a failure.
                representation = replace(answer.representation, ranges=answer.representation.ranges or ranges)
                return exchange, replace(answer, representation=representation)
            if _can_be_built_on(answer, span):
                return exchange, answer
            ranges = answer.kind is AnswerKind.RANGE
        except BaseException:
            source.done(exchange)
            raise
        source.done(exchange)
    raise BadRange("a request without a range was answered with a range error", status=416)


def _can_be_built_on(answer: Answer, span: int) -> bool:
    """Whether a range is as long as asked for and, unless it is all there is, has a validator by which the next ones
    are known to be of the same bytes. (An unsatisfiable one, of an empty file, has nothing at all.)"""
    if answer.kind is not AnswerKind.RANGE or answer.end is None:
        return False
    return answer.end == answer.total or (answer.end >= span and answer.representation.comparable)
