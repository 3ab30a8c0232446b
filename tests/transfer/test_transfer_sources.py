"""Which source is asked: by who leads, who failed, who is fast, and whether pieces can be checked."""

from __future__ import annotations

import random
from typing import cast

import pytest

from engine.config import MIB
from engine.errors import (
    Changed,
    ConnectRefused,
    CorruptBody,
    EngineError,
    HttpStatus,
    IntegrityError,
    NoSpace,
)
from engine.model.records import PartRecord, Representation
from engine.net.url import parse_url
from engine.transfer.ledger import Ledger
from engine.transfer.scores import FORGIVEN_S, HOSTS_KEPT, Score, Scores
from engine.transfer.slow import Rate, is_slow
from engine.transfer.sources import Source, Sources
from engine.transfer.whereabouts import Whereabouts


def sources(count: int, *, checked: bool = False) -> Sources:
    """Sources that nobody asks anything."""
    nowhere = cast(Whereabouts, None)
    return Sources((Source(nowhere, parse_url(f"http://h{n}/f"), n) for n in range(count)), checked=checked)


def rated(source: Source, rate: float) -> None:
    source.score.note(int(rate * 10), 10.0)


def test_the_first_one_leads_and_the_others_stand_by() -> None:
    some = sources(3)
    assert {some.pick(0.0).number for _ in range(9)} == {0}
    assert some.pick(0.0, avoid=some.all[0]).number == 1


def test_one_that_was_compared_and_is_clearly_faster_helps() -> None:
    some = sources(2)
    rated(some.all[0], 1 * MIB)
    rated(some.all[1], 2 * MIB)
    assert some.pick(0.0).number == 0
    some.all[1].compared = True
    assert some.pick(0.0).number == 1
    rated(some.all[0], 100 * MIB)
    assert some.pick(0.0).number == 0


def test_with_checked_pieces_all_of_them_fetch_by_their_rates() -> None:
    some = sources(2, checked=True)
    assert [_taken(some).number for _ in range(4)] == [0, 1, 0, 1]
    fast, slow = some.all
    fast.active = slow.active = 0
    rated(fast, 9 * MIB)
    rated(slow, 3 * MIB)
    assert sorted(_taken(some).number for _ in range(8)) == [0] * 6 + [1] * 2


def _taken(some: Sources) -> Source:
    source = some.pick(0.0)
    source.active += 1
    return source


@pytest.mark.parametrize(
    ("error", "another", "out"),
    [
        (ConnectRefused("refused"), True, False),
        (HttpStatus("busy", status=503, retry_after_s=5.0), True, False),
        (HttpStatus("gone", status=404), True, True),
        (Changed("other"), True, True),
        (CorruptBody("damaged on its way"), True, False),
        (IntegrityError("wrong"), False, False),
        (NoSpace("full"), False, False),
    ],
)
def test_what_becomes_of_one_that_failed(error: EngineError, another: bool, out: bool) -> None:
    some = sources(2)
    assert some.failed(some.all[0], error, 10.0) is another
    assert bool(some.all[0].out) is out
    assert some.pick(10.0).number == (1 if another else 0)
    assert some.lead.number == (1 if another else 0)


def test_the_last_one_is_never_left_out() -> None:
    some = sources(2)
    some.failed(some.all[0], HttpStatus("gone", status=404), 0.0)
    assert not some.failed(some.all[1], HttpStatus("gone", status=404), 0.0)
    assert not some.all[1].out
    alone = sources(1)
    assert not alone.failed(alone.all[0], ConnectRefused("refused"), 0.0)


def test_one_that_may_work_later_counts_more_than_one_that_never_will() -> None:
    some = sources(2)
    refused = ConnectRefused("refused")
    assert some.failed(some.all[0], refused, 0.0)
    gone = HttpStatus("gone", status=404)
    assert not some.failed(some.all[1], gone, 0.0)
    assert some.verdict(gone) is refused
    assert sources(2).verdict(gone) is gone


def test_nobody_is_left() -> None:
    some = sources(2)
    for source in some.all:
        some.leave_out(source, "it sent wrong bytes")
    with pytest.raises(IntegrityError, match=r"no source is left.*h0.*h1"):
        some.pick(0.0)


def test_each_is_compared_with_what_it_said_itself() -> None:
    some = sources(2)
    own = Representation(length=9, etag='"a"')
    record = PartRecord(folder="/", part_name="p", final_name="f", length=9, chunk_bytes=1024, representation=own)
    some.bind(record)
    assert [source.known(record) for source in some.all] == [own, Representation(length=9, ranges=True)]
    other = Representation(length=9, etag='"b"')
    some.bind(PartRecord(
        folder="/", part_name="p", final_name="f", length=9, chunk_bytes=1024, representation=other,
        validators={"http://h1/f": other},
    ))  # fmt: skip
    assert [source.known(record) for source in some.all] == [Representation(length=9, ranges=True), other]


def test_slow_is_what_is_far_below_what_another_gives() -> None:
    some = sources(2)
    rate = Rate(some.all[0], 10_000.0)
    assert not is_slow(rate, [rate], some, 0.0, 4096), "nothing is known of the other"
    rated(some.all[1], 50_000.0)
    assert is_slow(rate, [rate], some, 0.0, 4096)
    assert is_slow(Rate(some.all[0], 4000.0), [], sources(2), 0.0, 4096)
    some.all[1].parked_until = 5.0
    assert not is_slow(rate, [rate], some, 0.0, 4096), "the other is not free"


def test_scores_follow_what_came_lately() -> None:
    scores = Scores()
    score = scores.of("h")
    assert not score.measured
    for _ in range(20):
        score.note(10 * MIB, 1.0)
    for _ in range(20):
        score.note(1 * MIB, 1.0)
    assert 1 * MIB <= score.rate_bytes_s < 1.5 * MIB
    score.failed_at = 5.0
    assert score.failing(6.0)
    assert not score.failing(5.0 + FORGIVEN_S)
    score.note(1, 1.0)
    assert not score.failing(6.0)
    assert scores.of("h") is score
    for number in range(HOSTS_KEPT):
        scores.of(str(number))
    assert scores.of("h") == Score()


def test_the_ledger_knows_who_sent_what() -> None:
    rng = random.Random(3)
    ledger = Ledger(300)
    truth: dict[int, int | None] = dict.fromkeys(range(300))
    for _ in range(500):
        index, number = rng.randrange(300), rng.randrange(3)
        ledger.came(index, number)
        truth[index] = number
    assert {index: ledger.source_of(index) for index in range(300)} == truth
    for sender in (None, 0, 1, 2):
        mine = [index for index, by in truth.items() if by == sender]
        assert ledger.chunks_of(sender) == mine
        assert ledger.count_of(sender) == len(mine)
    assert ledger.sources() == set(truth.values())


def test_another_is_spare_while_it_is_free_and_nothing_bad_is_known_of_it() -> None:
    assert not sources(1).lead.has_spare(0.0)
    some = sources(2)
    slow, other = some.all
    assert slow.has_spare(0.0)
    assert other.has_spare(0.0)
    some.failed(slow, ConnectRefused("no"), 0.0)
    assert not other.has_spare(FORGIVEN_S + 60.0), "the two would cut each other off in turn"
    assert slow.has_spare(0.0)
    some.leave_out(other, "it is gone")
    assert not slow.has_spare(0.0)


def test_one_that_rests_or_failed_for_another_entry_is_not_spare() -> None:
    some = sources(2)
    some.slow(some.all[1], 0.0)
    assert not some.lead.has_spare(1.0)
    again = sources(2)
    again.all[1].score.failed_at = 0.0
    assert not again.lead.has_spare(1.0)
    assert again.lead.has_spare(FORGIVEN_S)


@pytest.mark.parametrize("count", [1, 2])
async def test_an_exchange_is_told_whether_there_is_a_spare(count: int) -> None:
    class Told:
        spare = False

        def has_spare(self) -> None:
            self.spare = True

    class There:
        async def open(self, asked: object) -> Told:
            return Told()

    lead = sources(count).lead
    lead.where = cast(Whereabouts, There())
    exchange = await lead.open(0, 9)
    assert cast(Told, exchange).spare == (count == 2)
