"""A store with something in every table, and ways to harm its values: rot, records that do not decode, lost rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.errors import EngineError
from engine.model.commands import Command, CommandResult, Outcome, Verb
from engine.model.groups import GroupRecord, GroupSort, MemberRecord, MemberSort
from engine.model.records import PartPhase
from engine.model.states import Event, Reason, State
from engine.store import entries, inbox, resets
from engine.store.codec import Table, entry_key
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.store.helpers import add_running, commit, entry, offline, part, spoil

NO_RECORD = b"\xc1"  # a byte that MessagePack never uses, under a proper checksum

Reader = Callable[[StateStore], object]


def fill(store: StateStore) -> None:
    """Entries a (running, relaxed bits), b (complete), c (parked), d (failed), e (removed), f (of scope s), g."""
    add_running(store, "a")
    store.commit_chunks([commit("a", range(30), synced=False)])
    for name in "bcde":
        store.add(entry(name))
    store.add(entry("f", scope="s"))
    store.add(entry("g"))
    _complete(store)
    store.transition("c", Event.PAUSE, epoch=1, now=3.0, reason=Reason.DISK)
    store.transition("d", Event.FAIL, epoch=1, now=3.0, reason=Reason.ERROR)
    store.transition("e", Event.START, epoch=1, now=2.0)
    store.put_part("e", 1, part(1))
    store.tombstones.bury("e")
    members = [MemberRecord(entry_id=name, volume=1, position=at) for at, name in enumerate("ab")]
    store.groups.put(GroupRecord(id="album", title="T"), members, replace=True)
    store.groups.put(GroupRecord(id="one"), [MemberRecord(entry_id="g")], replace=True)
    store.groups.disown("g")
    store.groups.drop("", "one")
    store.groups.set_quota("s", 5)
    store.groups.begin_reset("s", 4.0)
    store.usage.count(bytes_reclaimed=3, files_removed=1)
    asked = [Command(verb=Verb.PAUSE, token=token, id="a") for token in "tu"] + [Command(verb=Verb.GC, token="v")]
    placed = store._environment.write(lambda txn: inbox.append(txn, asked, 9))
    done = CommandResult(number=placed[0].number, token="t", outcome=Outcome.DONE, boot_id="boot", uptime_s=1.0)
    store.inbox.finish(done, 60.0)


def _complete(store: StateStore) -> None:
    store.transition("b", Event.START, epoch=1, now=2.0)
    store.put_part("b", 1, part(1, phase=PartPhase.PUBLISHED))
    store.transition("b", Event.COMPLETE, epoch=1, now=3.0, offline=offline("b"), bytes_total=1)


READERS: dict[str, Reader] = {
    "find": lambda store: [store.get(name) for name in "abcdef"],
    "list": lambda store: [store.list(state) for state in (None, *State)],
    "page_from": lambda store: store.page_from(0, 10),
    "ids": lambda store: store.ids(None, ""),
    "pending": lambda store: [store.pending(), store.pending(0, 1), store.pending(99)],
    "counts": lambda store: store.counts(),
    "indexes": lambda store: store.indexes_sound(),
    "offline": lambda store: store.offline("b"),
    "of_scope": lambda store: store._environment.read(lambda txn: [list(entries.of_scope(txn, s)) for s in ("", "s")]),
    "parts": lambda store: store.parts("a"),
    "unsynced": lambda store: store.unsynced(),
    "damaged_parts": lambda store: store.damaged_parts(),
    "bits": lambda store: (store.held_runs("a", 0, 100), store.bitmap("a", 0, 100).held),
    "cvs": lambda store: store.cvs("a", 0, 30),
    "suspects": lambda store: store.suspects(),
    "tombstones": lambda store: (store.tombstones.all(), store.tombstones.find("e")),
    "waiting": lambda store: (store.inbox.waiting(0, 10), store.inbox.waiting(0, 1)),
    "result": lambda store: store._environment.read(lambda txn: inbox.result_of(txn, 1)),
    "groups_of": lambda store: store.groups.groups_of("a"),
    "leaving": lambda store: store.groups.leaving(),
    "status": lambda store: store.groups.status("", "album"),
    "members_there": lambda store: store.groups.members_there("", "album"),
    "members": lambda store: [store.groups.members("", "album", sort, None, 9) for sort in MemberSort],
    "groups": lambda store: [store.groups.page("", sort, None, 9) for sort in GroupSort],
    "scope_page": lambda store: [store.groups.of_scope("", state, None, 9) for state in (None, State.PAUSED)],
    "damaged_of_scope": lambda store: store.groups.damaged_of_scope(""),
    "resets": lambda store: store.groups.unfinished_resets(),
    "quotas": lambda store: store.groups.quotas(),
    "usage": lambda store: [list(store.usage.pages(offline=True)), list(store.usage.pages())],
    "usage_of_scope": lambda store: store.usage.of_scope(""),
    "needs": lambda store: [store.usage.needs(tag_of("a"), name) for name in ("p.part", "other")],
    "parked": lambda store: store.usage.parked(Reason.DISK),
    "stale": lambda store: store.usage.stale(9.0),
    "counters": lambda store: store.usage.counters(),
}


def tag_of(entry_id: str) -> str:
    """As the engine's names of unfinished files have it."""
    return entry_key(entry_id)[:8].hex()


WRITERS: dict[str, Reader] = {
    "begin": lambda store: store.inbox.begin([1, 2, 3, 4]),
    "count": lambda store: store.usage.count(bytes_reclaimed=1, files_removed=1),
    "touch": lambda store: store.usage.touch({"a": 9.0, "none": 9.0}),
    "update_offline": lambda store: store.usage.update_offline("b", expires_at=5.0),
    "rebuild": lambda store: store.rebuild_indexes(),
    "index_scopes": lambda store: store._environment.write(entries.index_scopes),
    "drop_damaged": lambda store: store._environment.write(resets.drop_damaged),
    "disown": lambda store: store.groups.disown("a"),
    "put_group": lambda store: store.groups.put(
        GroupRecord(id="album"), [MemberRecord(entry_id="b", volume=1)], replace=False
    ),
    "drop_group": lambda store: store.groups.drop("", "album"),
    "drop_any": lambda store: [store.groups.drop_any(""), store.groups.drop_any("")],
    "bury": lambda store: [store.tombstones.bury("a"), store.tombstones.bury("b", keep_file=True)],
    "cancel": lambda store: store.transition("c", Event.CANCEL, epoch=1, now=9.0),
    "add": lambda store: store.add(entry("new")),
    "clear": lambda store: store.clear_chunks("a", 1, 0, [(0, 3)]),
    "commit": lambda store: store.commit_chunks([commit("a", [40])]),
}


def harm(store: StateStore, root: str, table: Table, how: str) -> StateStore:
    """The store again, with every value of the table harmed: "rot" flips a bit, "strange" is no record, "gone"."""
    from tests.store.helpers import open_store

    if how == "rot":
        store.close(clean=False)  # a clean end empties the suspect log
        spoil(root, table, lambda key: key not in _NEEDED)
        return open_store(root)
    store._environment.write(lambda txn: _harm_all(txn, table, how))
    return store


_NEEDED = frozenset({b"schema", b"uuid", b"session", b"home"})


def _harm_all(txn: Txn, table: Table, how: str) -> None:
    for key in list(txn.keys(table)):
        if key in _NEEDED:
            continue
        if how == "gone":
            txn.delete(table, key)
        else:
            txn.put(table, key, NO_RECORD)


def refusals(store: StateStore, calls: dict[str, Reader]) -> Iterator[str]:
    """The names of the calls that refuse by an error of the engine; any other error comes out."""
    for name, call in calls.items():
        try:
            call(store)
        except EngineError:
            yield name
