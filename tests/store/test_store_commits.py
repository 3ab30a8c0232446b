"""Committing chunks: bits, CVs and counters move together, once, and only for the epoch and generation of now."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.config import Config
from engine.errors import BadRecord, StaleEpoch, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.model.chunks import BITS_PER_PAGE, CVS_PER_PAGE
from engine.store import suspects as suspect_log
from engine.store.commits import ChunkCommit
from engine.store.state_store import StateStore
from tests.store.helpers import BOOT, CHUNK, add_running, commit, cv, dump, entry, open_store, part

EDGES = [0, 1, CVS_PER_PAGE - 1, CVS_PER_PAGE, BITS_PER_PAGE - 1, BITS_PER_PAGE, 2 * BITS_PER_PAGE + 5]


class NextBoot(FileSystem):
    """The machine after its next start."""

    def boot_id(self) -> str:
        return "the-boot-after"


def test_a_commit_sets_bits_cvs_and_counters(store: StateStore) -> None:
    add_running(store)
    (record,) = store.commit_chunks([commit("a", [3, 4, 70])])
    assert record is not None
    assert (record.chunks_done, record.bytes_done, record.unsynced_boot) == (3, 3 * CHUNK, "")
    assert store.parts("a") == (record,)
    assert list(store.bitmap("a", 0, 100).runs()) == [(3, 2), (70, 1)]
    assert store.held_runs("a", 0, 100) == [(3, 2), (70, 1)]
    assert store.cvs("a", 0, 2, first=3) == cv(3) + cv(4)
    assert store.cvs("a", 0, 1, first=70) == cv(70)


def test_runs_and_cvs_are_joined_across_pages(store: StateStore) -> None:
    count = 2 * BITS_PER_PAGE + 100
    add_running(store, chunks=count)
    first = BITS_PER_PAGE - 100
    store.commit_chunks([commit("a", range(first, first + 300), count), commit("a", EDGES, count)])
    assert (first, 300) in store.held_runs("a", 0, count)
    assert store.held_runs("a", 0, count) == list(store.bitmap("a", 0, count).runs())
    assert store.cvs("a", 0, 250, first=first + 7) == b"".join(cv(first + 7 + index) for index in range(250))
    assert store.cvs("a", 0, 0) == b""
    with pytest.raises(BadRecord, match=r"'a'"):
        store.cvs("a", 0, count)


def test_a_bit_that_is_set_is_not_counted_twice_and_takes_the_newer_cv(store: StateStore) -> None:
    add_running(store)
    store.commit_chunks([commit("a", [5, 6])])
    newer = ChunkCommit(
        id="a",
        epoch=1,
        generation=1,
        chunks=((6, cv(6, "new"), CHUNK), (7, cv(7), 10)),
        bit_count=100,
        synced=True,
        boot_id="",
    )
    (record,) = store.commit_chunks([newer])
    assert record is not None
    assert (record.chunks_done, record.bytes_done) == (3, 2 * CHUNK + 10)
    assert store.cvs("a", 0, 1, first=6) == cv(6, "new")


def test_law_3_commits_of_another_epoch_generation_or_entry_are_dropped(root: str) -> None:
    store = open_store(root)
    add_running(store)
    store.add(entry("no-part"))
    store.close()
    before = dump(root)
    store = open_store(root)
    void = [
        commit("a", [1], epoch=2),
        commit("a", [1], generation=2),
        commit("a", [1], part_index=1),
        commit("nobody", [1]),
        commit("no-part", [1]),
    ]
    assert store.commit_chunks(void) == [None] * 5
    store.close()
    assert dump(root) == before
    store = open_store(root)
    mixed = store.commit_chunks([void[0], commit("a", [1]), void[1]])
    assert [record is None for record in mixed] == [True, False, True]
    store.close()


@pytest.mark.parametrize(
    "chunks", [((100, cv(1), 1),), ((-1, cv(1), 1),), ((1, b"short", 1),), ((1, cv(1), 0),)], ids=str
)
def test_m28_a_chunk_out_of_its_bounds_is_refused_before_the_store(chunks: tuple[tuple[int, bytes, int], ...]) -> None:
    with pytest.raises(ValueError, match="chunk"):
        ChunkCommit(id="a", epoch=1, generation=1, chunks=chunks, bit_count=100, synced=True, boot_id="")


def test_two_commits_of_one_part_in_one_group_both_count(store: StateStore) -> None:
    add_running(store)
    first, second = store.commit_chunks([commit("a", [1, 2]), commit("a", [2, 3])])
    assert first is not None
    assert second is not None
    assert (first.chunks_done, second.chunks_done) == (2, 3)


def test_a_callers_older_record_never_sets_counters_back(store: StateStore) -> None:
    older = add_running(store)
    store.commit_chunks([commit("a", [1, 2], synced=False)])
    stored = store.put_part("a", 1, msgspec.structs.replace(older, inode=7, chunks_done=99))
    assert (stored.inode, stored.chunks_done, stored.bytes_done, stored.unsynced_boot) == (7, 2, 2 * CHUNK, BOOT)


def test_a_new_generation_only_begins_by_a_reset_that_drops_the_bits(store: StateStore) -> None:
    old = add_running(store, chunks=20000)
    store.put_part("a", 1, part(index=1))
    store.commit_chunks([commit("a", EDGES, 20000, synced=False), commit("a", [4], part_index=1)])
    new = msgspec.structs.replace(old, generation=2)
    with pytest.raises(ValueError, match="reset_part"):
        store.put_part("a", 1, new)
    with pytest.raises(StaleEpoch):
        store.reset_part("a", 2, new)
    stored = store.reset_part("a", 1, new)
    assert (stored.chunks_done, stored.bytes_done, stored.unsynced_boot) == (0, 0, "")
    assert store.bitmap("a", 0, 20000).held == 0
    assert store.unsynced() == []
    with pytest.raises(BadRecord):
        store.cvs("a", 0, 1)
    assert store.held_runs("a", 1, 100) == [(4, 1)], "the other part keeps its bits"


def test_cleared_chunks_are_missing_and_counted_anew(store: StateStore) -> None:
    length = 20000 * CHUNK - 5
    add_running(store, chunks=20000)
    store.reset_part("a", 1, part(length=length))
    last = ChunkCommit(
        id="a", epoch=1, generation=1, chunks=((19999, cv(19999), CHUNK - 5),), bit_count=20000, synced=True, boot_id=""
    )
    store.commit_chunks([commit("a", range(8000, 8400), 20000), last])
    record = store.clear_chunks("a", 1, 0, [(8100, 200), (0, 10), (8390, 500)])
    assert (record.chunks_done, record.bytes_done) == (191, 191 * CHUNK - 5)
    assert store.held_runs("a", 0, 20000) == [(8000, 100), (8300, 90), (19999, 1)]
    assert store.clear_chunks("a", 1, 0, [(19999, 1)]).bytes_done == 190 * CHUNK
    with pytest.raises(StaleEpoch):
        store.clear_chunks("a", 2, 0, [])
    with pytest.raises(UnknownEntry):
        store.clear_chunks("a", 1, 9, [])


def test_law_1_unsynced_parts_are_listed_until_they_are_synced(root: str) -> None:
    store = open_store(root)
    add_running(store, "a")
    add_running(store, "b")
    store.commit_chunks([commit("a", [1], synced=False), commit("b", [1])])
    store.commit_chunks([commit("a", [2], synced=False, boot_id="later"), commit("a", [3])])
    store.close()
    store = open_store(root)
    assert store.unsynced() == [("a", 0, BOOT)], (
        "a later synced commit, or another boot, does not prove the first bytes"
    )
    assert store.mark_synced("a", 0, 1)
    assert store.unsynced() == []
    assert store.parts("a")[0].unsynced_boot == ""
    with pytest.raises(ValueError, match="boot"):
        commit("a", [4], synced=False, boot_id="")
    store.close()


def test_law_3_marks_are_those_of_one_generation(store: StateStore) -> None:
    """A sync of an older generation's file, or a look at it, that ends late says nothing of the newer one."""
    add_running(store, "a")
    store.reset_part("a", 1, part(generation=2))
    store.commit_chunks([commit("a", [1], synced=False, generation=2)])
    assert not store.mark_synced("a", 0, 1)
    assert not store.mark_unsynced("a", 0, 1, "older")
    assert not store.mark_synced("a", 7, 1)
    assert not store.mark_synced("gone", 0, 1)
    assert store.unsynced() == [("a", 0, BOOT)]
    assert store.mark_unsynced("a", 0, 2, "doubtful")
    assert store.unsynced() == [("a", 0, "doubtful")]
    assert store.parts("a")[0].unsynced_boot == "doubtful"
    assert store.mark_synced("a", 0, 2)
    assert store.unsynced() == []


def test_d23_the_suspect_log_holds_the_last_groups(store: StateStore) -> None:
    add_running(store, chunks=5000)
    for group in range(suspect_log.GROUPS_KEPT + 6):
        store.commit_chunks([commit("a", [group * 2, group * 2 + 1], 5000)])
    (found,) = store.suspects()
    assert (found.id, found.part_index, found.generation) == ("a", 0, 1)
    assert found.indexes == list(range(12, 140))
    store.clear_suspects()
    assert store.suspects() == []


@pytest.mark.parametrize("clean", [False, True])
def test_d23_the_suspect_log_ends_with_a_session_that_ended_in_order(root: str, clean: bool) -> None:
    store = open_store(root)
    add_running(store)
    store.commit_chunks([commit("a", [1])])
    store.close(clean=clean)
    after = open_store(root)
    assert [found.indexes for found in after.suspects()] == ([] if clean else [[1]])
    after.close()


def test_d23_a_recheck_that_is_owed_outlives_a_clean_end(root: str) -> None:
    """Who opened the store between and did not hash again takes nothing away from who does."""
    store = open_store(root)
    add_running(store)
    store.commit_chunks([commit("a", [1])])
    store.close(clean=False)
    for _ in range(2):
        between = StateStore.open(root, Config(), NextBoot(), now=100.0)
        assert between.session.recheck
        assert [found.indexes for found in between.suspects()] == [[1]]
        between.close()


def test_d23_the_suspect_log_holds_at_most_a_gibibyte_but_never_less_than_one_group(store: StateStore) -> None:
    add_running(store, chunks=5000)
    for group in range(4):
        store.commit_chunks([commit("a", range(group * 400, group * 400 + 400), 5000)])
    assert store.suspects()[0].indexes == list(range(800, 1600))
    store.commit_chunks([commit("a", range(2000, 3100), 5000)])
    assert store.suspects()[0].indexes == list(range(2000, 3100))


INDEXES = st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 20000 - 1)), max_size=40)


class StoreBesideADict(RuleBasedStateMachine):
    """Commits, clears and resets against plain dicts of (part, index) to CV."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = open_store(self.folder.name)
        self.model: list[dict[int, bytes]] = [{}, {}]
        self.generations = [1, 1]

    @initialize()
    def begin(self) -> None:
        add_running(self.store, chunks=20000)
        self.store.put_part("a", 1, part(20000, index=1))

    @rule(which=st.integers(0, 1), indexes=INDEXES, salt=st.sampled_from("xy"), stale=st.booleans())
    def commit(self, which: int, indexes: list[int], salt: str, stale: bool) -> None:
        chunks = {index: cv(index, salt) for index in indexes}
        made = ChunkCommit(
            id="a",
            epoch=1,
            part_index=which,
            generation=self.generations[which] + stale,
            chunks=tuple((index, digest, CHUNK) for index, digest in chunks.items()),
            bit_count=20000,
            synced=True,
            boot_id=BOOT,
        )
        (record,) = self.store.commit_chunks([made])
        assert (record is None) == stale
        if not stale:
            self.model[which].update(chunks)

    @rule(
        which=st.integers(0, 1),
        first=st.one_of(st.sampled_from(EDGES), st.integers(0, 19999)),
        count=st.integers(0, 9000),
    )
    def clear(self, which: int, first: int, count: int) -> None:
        self.store.clear_chunks("a", 1, which, [(first, count)])
        self.model[which] = {at: value for at, value in self.model[which].items() if not first <= at < first + count}

    @rule(which=st.integers(0, 1))
    def reset(self, which: int) -> None:
        self.generations[which] += 1
        self.store.reset_part("a", 1, part(20000, index=which, generation=self.generations[which]))
        self.model[which] = {}

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.folder.name)

    @invariant()
    def both_agree(self) -> None:
        for record, model in zip(self.store.parts("a"), self.model, strict=False):
            held = self.store.bitmap("a", record.index, 20000)
            runs = self.store.held_runs("a", record.index, 20000)
            assert {index for first, count in runs for index in range(first, first + count)} == model.keys()
            assert list(held.runs()) == runs
            assert (record.chunks_done, record.bytes_done) == (len(model), len(model) * CHUNK)
            assert all(self.store.cvs("a", record.index, 1, first=at) == digest for at, digest in model.items())
        assert self.store.take_damages() == ()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()


TestStoreBesideADict = StoreBesideADict.TestCase
TestStoreBesideADict.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)


@given(indexes=st.sets(st.integers(0, 300)))
@settings(max_examples=50, deadline=None)
def test_runs_of_say_the_same_as_the_numbers(indexes: set[int]) -> None:
    runs = suspect_log.runs_of(sorted(indexes))
    assert [index for first, count in runs for index in range(first, first + count)] == sorted(indexes)
    assert all(first + count < after for (first, count), (after, _) in pairwise(runs))
