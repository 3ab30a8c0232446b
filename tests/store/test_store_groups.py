"""Groups, links, scopes and pages in the store: who holds what, in which order, and what damage and crashes do."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest, ScopeResetting, UnknownGroup
from engine.model.groups import GroupRecord, GroupSort, GroupState, MemberRecord, MemberSort, Place
from engine.model.paging import Page
from engine.model.states import Event, State
from engine.store.codec import KEY_BYTES, Table, entry_key
from engine.store.groups import group_key
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.store.helpers import CHUNK, add_running, commit, entry, offline, open_store, spoil


def group(group_id: str = "g", **fields: Any) -> GroupRecord:
    return GroupRecord(id=group_id, **fields)


def member(entry_id: str, position: int = 0, volume: int = 1, **fields: Any) -> MemberRecord:
    return MemberRecord(entry_id=entry_id, position=position, volume=volume, **fields)


def album(store: StateStore, names: str, group_id: str = "g", *, replace: bool = False, scope: str = "") -> list[str]:
    """A group with these entries in order; returns what nothing holds then."""
    members = [member(name, position) for position, name in enumerate(names)]
    return store.groups.put(group(group_id, scope=scope), members, replace=replace)


def listed(store: StateStore, group_id: str = "g", **options: Any) -> list[str]:
    return [found.entry_id for found in store.groups.members("", group_id, limit=1000, **options).items]


def walk(read: Callable[[str | None], Page[Any]]) -> Iterator[Any]:
    """All items of all pages."""
    after: str | None = None
    while True:
        page = read(after)
        yield from page.items
        if page.after is None:
            return
        after = page.after


# Links.


def test_members_are_listed_by_volume_and_position(store: StateStore) -> None:
    places = [("d", 2, 1), ("a", 1, 1), ("c", 1, 300), ("b", 1, 2)]
    store.groups.put(group(), [member(name, position, volume) for name, volume, position in places], replace=False)
    assert listed(store) == ["a", "b", "c", "d"]
    assert store.groups.find("", "g") == group()


def test_an_entry_goes_with_its_last_link_only(store: StateStore) -> None:
    album(store, "ab")
    album(store, "bc", "other")
    store.add_many(entry(name) for name in "abc")
    assert store.groups.drop("", "g") == ["a"]
    assert store.groups.leaving() == ["a"]
    assert store.groups.groups_of("b") == ("other",)
    assert sorted(store.groups.drop("", "other") or ()) == ["b", "c"]
    assert store.groups.drop("", "other") is None


def test_links_are_counted_by_rows(store: StateStore) -> None:
    """A playlist may have the same entry twice."""
    album(store, "aba")
    store.add_many(entry(name) for name in "ab")
    assert store.groups.put(group(), [member("b", 1), member("a", 2)], replace=True) == []
    assert listed(store) == ["b", "a"]
    assert store.groups.put(group(), [member("b", 1)], replace=True) == ["a"]


def test_bug_23_a_member_whose_place_is_taken_loses_this_link(store: StateStore) -> None:
    """origin-behaviour 4.23: the (volume, position) upsert replaced a member whose files stayed."""
    album(store, "ab")
    album(store, "b", "other")
    store.add_many(entry(name) for name in "ab")
    assert album(store, "xy") == ["a"], "b is held by another group"
    assert listed(store) == ["x", "y"]
    assert store.groups.groups_of("a") == ()


def test_what_only_changes_its_place_is_never_without_a_link(store: StateStore) -> None:
    album(store, "abcd")
    store.add_many(entry(name) for name in "abcd")
    assert album(store, "dcba", replace=True) == []
    assert listed(store) == ["d", "c", "b", "a"]
    assert album(store, "bcd", replace=True) == ["a"]


def test_an_entry_asked_for_by_itself_before_has_a_link_of_its_own(store: StateStore) -> None:
    store.add(entry("a"))
    album(store, "ab")
    store.add(entry("b"))
    assert store.groups.drop("", "g") == ["b"]
    assert store.get("a") is not None


def test_an_entry_asked_for_by_itself_later_has_one_too(store: StateStore) -> None:
    album(store, "ab")
    store.add_many(entry(name) for name in "ab")
    assert store.groups.needs_owning("abz") == ["a", "b"]
    store.groups.own("a")
    assert store.groups.needs_owning("abz") == ["b"]
    assert store.groups.drop("", "g") == ["b"]


def test_one_that_is_about_to_go_stays_when_it_is_asked_for_or_added_again(store: StateStore) -> None:
    album(store, "abc")
    store.add_many(entry(name) for name in "abc")
    store.groups.drop("", "g")
    store.groups.own("a")
    album(store, "b", "other")
    assert store.groups.leaving() == ["c"]
    assert store.groups.groups_of("a") == ()
    assert store.groups.drop("", "other") == ["b"], "being about to go was no wish of its own"


def test_disowned_it_goes_unless_a_group_holds_it(store: StateStore) -> None:
    store.add_many(entry(name) for name in "ab")
    album(store, "a")
    assert store.groups.disown("a") == ("g",)
    assert not store.groups.is_leaving("a")
    assert store.groups.disown("b") == ()
    assert store.groups.is_leaving("b")
    assert store.groups.drop("", "g") == ["a"]


def test_what_is_to_go_is_known_after_a_crash_until_it_is_gone(root: str) -> None:
    store = open_store(root)
    album(store, "ab")
    store.add_many(entry(name) for name in "ab")
    store.groups.drop("", "g")
    store.close(clean=False)
    store = open_store(root)
    assert sorted(store.groups.leaving()) == ["a", "b"]
    store.remove("a")
    assert store.groups.leaving() == ["b"]
    store.groups.gone("b")
    assert not store.groups.any_held()
    store.close()


def test_a_removed_entry_is_missing_in_its_group_and_begins_anew_without_a_link_of_its_own(store: StateStore) -> None:
    store.add(entry("a"))
    album(store, "a")
    store.remove("a")
    assert store.groups.status("", "g").missing == 1
    store.add(entry("a"))
    assert store.groups.drop("", "g") == ["a"]


# Groups.


def test_the_same_id_in_another_scope_is_another_group(store: StateStore) -> None:
    album(store, "a", scope="x")
    album(store, "b", scope="y")
    assert store.groups.find("", "g") is None
    for scope, name in (("x", "a"), ("y", "b")):
        assert [found.entry_id for found in store.groups.members(scope, "g").items] == [name]
        assert [found.id for found in store.groups.page(scope).items] == ["g"]
    with pytest.raises(UnknownGroup):
        store.groups.members("", "g")
    with pytest.raises(UnknownGroup):
        store.groups.status("", "g")


def test_put_again_it_keeps_when_it_was_added_and_so_do_its_members(store: StateStore) -> None:
    store.groups.put(group(added_at=1.0, title="Old"), [member("a", 0, added_at=1.0)], replace=False)
    later = [member("b", 0, added_at=9.0), member("a", 1, added_at=9.0)]
    store.groups.put(group(added_at=9.0, title="New"), later, replace=False)
    [found] = store.groups.page("").items
    assert (found.title, found.added_at) == ("New", 1.0)
    assert [(m.entry_id, m.added_at) for m in store.groups.members("", "g").items] == [("b", 9.0), ("a", 1.0)]


def test_titles_sort_without_case_and_equal_ones_firmly(store: StateStore) -> None:
    titles = ["", "Ab", "ab c", "abc", "apple", "eclair", "Éclair", "ÉCLAIR", "f", "STRASSE", "straße", "x" * 900, "Z"]
    members = [member(f"e{number}", number, title=title) for number, title in enumerate(titles)]
    store.groups.put(group("all", title="zz"), members[::-1], replace=False)
    assert [item.title for item in store.groups.members("", "all", MemberSort.TITLE).items] == titles
    for number, title in enumerate(titles):
        store.groups.put(group(f"g{number}", title=title), [], replace=False)
    found = [item.title for item in store.groups.page("").items]
    assert [title.casefold() for title in found] == [title.casefold() for title in [*titles, "zz"]]
    assert found == [item.title for item in store.groups.page("").items]
    for number, title in reversed(list(enumerate(titles))):
        store.groups.put(group(f"g{number}", title=title), [], replace=False)
    assert found == [item.title for item in store.groups.page("").items], "however often they are put"


def test_a_title_that_changes_changes_its_place_in_the_order(store: StateStore) -> None:
    titles = [member("a", 0, title="a"), member("b", 1, title="b")]
    store.groups.put(group(title="old"), titles, replace=False)
    store.groups.put(group("h", title="m"), [], replace=False)
    store.groups.put(group(title="a"), [member("a", 0, title="z")], replace=False)
    page = store.groups.members("", "g", MemberSort.TITLE)
    assert ([item.title for item in page.items], page.damaged) == (["b", "z"], ())
    groups = store.groups.page("")
    assert ([item.title for item in groups.items], groups.damaged) == (["a", "m"], ())


def test_by_time_of_adding(store: StateStore) -> None:
    for number, at in enumerate((5.0, 1.5, 3.25, -7.0)):
        store.groups.put(group(f"g{number}", added_at=at), [], replace=False)
    assert [item.id for item in store.groups.page("", GroupSort.ADDED).items] == ["g3", "g1", "g2", "g0"]
    members = [member(f"e{number}", number, added_at=at) for number, at in enumerate((5.0, 1.5, 3.25))]
    store.groups.put(group("all"), members, replace=False)
    assert listed(store, "all", sort=MemberSort.ADDED) == ["e1", "e2", "e0"]


def test_a_group_is_told_as_a_whole(store: StateStore) -> None:
    album(store, "abcx")
    add_running(store, "a", chunks=10)
    store.commit_chunks([commit("a", range(4), 10)])
    store.add(entry("b"))
    store.transition("b", Event.START, epoch=1, now=2.0)
    store.transition("b", Event.COMPLETE, epoch=1, now=3.0, bytes_total=7, offline=offline("b"))
    store.add(entry("c", expected_length=5))
    status = store.groups.status("", "g")
    assert status.state is GroupState.IN_PROGRESS
    assert status.counts == {State.IN_PROGRESS: 1, State.COMPLETED: 1, State.PENDING: 1}
    assert (status.members, status.missing, status.damaged) == (4, 1, ())
    assert (status.bytes_done, status.bytes_total, status.sizes_unknown) == (4 * CHUNK + 7, 10 * CHUNK + 7 + 5, 1)
    assert [member.entry_id for member in status.shortfalls] == ["x"]


# Pages.


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=25),
    st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=25),
    st.integers(1, 4),
    st.sampled_from(list(MemberSort)),
)
def test_every_member_that_stays_is_met_once_while_others_come_and_go(
    store: StateStore, start: list[tuple[int, str]], changes: list[tuple[int, bool]], limit: int, sort: MemberSort
) -> None:
    present = {position: member(f"e{position}", position, title=title) for position, title in start}
    store.groups.put(group(), list(present.values()), replace=True)
    staying = set(present)
    met: list[int] = []
    after: str | None = None
    pending = iter(changes)
    while True:
        page = store.groups.members("", "g", sort, after, limit)
        met += [item.position for item in page.items]
        if page.after is None:
            break
        after = page.after
        change = next(pending, None)
        if change is not None:
            position, add = change
            if add:
                present.setdefault(position, member(f"e{position}", position, title="b"))
            else:
                present.pop(position, None)
                staying.discard(position)
            store.groups.put(group(), list(present.values()), replace=True)
    assert len(met) == len(set(met)), "none twice"
    assert staying <= set(met), "none left out"
    if sort is MemberSort.PLACE:
        assert met == sorted(met)


def test_pages_of_groups_and_of_a_scope_follow_each_other(store: StateStore) -> None:
    for number in range(25):
        store.groups.put(group(f"g{number:02}", title=f"{number % 3}"), [], replace=False)
    store.add_many(entry(f"e{number}", scope="xy"[number % 2]) for number in range(40))
    for sort in GroupSort:
        whole = [item.id for item in store.groups.page("", sort).items]
        assert len(set(whole)) == 25
        assert [item.id for item in walk(partial(store.groups.page, "", sort, limit=4))] == whole
    found = [item.id for item in walk(lambda after: store.groups.of_scope("y", None, after, 3))]
    assert found == [f"e{number}" for number in range(1, 40, 2)]


def test_a_scope_is_listed_by_state_too(store: StateStore) -> None:
    store.add_many(entry(f"e{number}", scope="x") for number in range(10))
    store.add(entry("other"))
    for number in (2, 5, 6):
        store.transition(f"e{number}", Event.START, epoch=1, now=1.0)
    found = walk(lambda after: store.groups.of_scope("x", State.IN_PROGRESS, after, 2))
    assert [item.id for item in found] == ["e2", "e5", "e6"]


def test_a_cursor_outlives_its_row_and_nothing_else_is_taken_for_one(store: StateStore) -> None:
    album(store, "abcd")
    album(store, "abcd", "other")
    album(store, "abcd", scope="x")
    cursor = store.groups.members("", "g", limit=2).after
    assert cursor is not None
    store.groups.put(group(), [member("a", 0), member("c", 2), member("d", 3)], replace=True)
    assert [item.entry_id for item in store.groups.members("", "g", after=cursor).items] == ["c", "d"]
    foreign: list[Callable[[], object]] = [
        lambda: store.groups.members("", "other", after=cursor),
        lambda: store.groups.members("x", "g", after=cursor),
        lambda: store.groups.members("", "g", MemberSort.TITLE, after=cursor),
        lambda: store.groups.page("", after=cursor),
        lambda: store.groups.of_scope("", after=cursor),
    ]
    for call in foreign:
        with pytest.raises(InvalidRequest):
            call()
    for garbage in ("", "x", "AAAA", "ü", "=", cursor[:-2], cursor + "A", "a" * 5000):
        with pytest.raises(InvalidRequest):
            store.groups.members("", "g", after=garbage)
    for limit in (0, -1, 10_001, True, 2.5):
        with pytest.raises(InvalidRequest):
            store.groups.members("", "g", limit=limit)  # type: ignore[arg-type]


class Counted:
    """Counts what is read from LMDB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        get, keys, walk_rows = Txn.get, Txn.keys, Txn.walk

        def counted_get(txn: Txn, *args: Any) -> bytes | None:
            self.reads += 1
            return get(txn, *args)

        def counted_keys(txn: Txn, *args: Any) -> Iterator[bytes]:
            for key in keys(txn, *args):
                self.reads += 1
                yield key

        def counted_walk(txn: Txn, *args: Any, **options: Any) -> Iterator[Any]:
            for row in walk_rows(txn, *args, **options):
                self.reads += 1
                yield row

        monkeypatch.setattr(Txn, "get", counted_get)
        monkeypatch.setattr(Txn, "keys", counted_keys)
        monkeypatch.setattr(Txn, "walk", counted_walk)

    def of(self, call: Callable[[], object]) -> int:
        before = self.reads
        call()
        return self.reads - before


def test_a_page_reads_its_own_rows_only(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page costs the same whether there are hundreds or a hundred thousand."""
    store.add_many(entry(f"e{number}") for number in range(600))
    members = [member(f"e{number}", number, title=f"{number % 7}") for number in range(600)]
    store.groups.put(group(), members, replace=False)
    for number in range(300):
        store.groups.put(group(f"g{number}"), [], replace=False)
    counted = Counted(monkeypatch)
    middle = store.groups.members("", "g", limit=300).after
    pages: list[tuple[Callable[[], object], int]] = [
        (lambda: store.groups.of_scope("", limit=20), 2),
        (lambda: store.groups.page("", GroupSort.TITLE, limit=20), 2),
        (lambda: store.groups.page("", GroupSort.ADDED, limit=20), 2),
        (lambda: store.groups.members("", "g", limit=20), 2),
        (lambda: store.groups.members("", "g", after=middle, limit=20), 2),
        (lambda: store.groups.members("", "g", MemberSort.TITLE, limit=20), 3),
    ]
    for read, rows_each in pages:
        assert 20 * rows_each <= counted.of(read) <= 20 * rows_each + 2, "its rows, the group and one key behind them"


# Damage.


def test_bug_24_a_damaged_member_ends_no_page_early_and_is_told(root: str) -> None:
    """origin-behaviour 4.24: one bad row failed all, and pages whose last rows were bad ended early."""
    store = open_store(root)
    album(store, "abcdefgh")
    store.add_many(entry(name) for name in "abcdefgh")
    store.close()
    bad = {group_key("", "g") + struct.pack(">II", *Place(1, position)) for position in (2, 3)}
    assert len(spoil(root, Table.MEMBERS, lambda key: key in bad)) == 2
    spoil(root, Table.ENTRIES, lambda key: key == entry_key("f"))
    store = open_store(root)
    for sort in MemberSort:
        pages: list[Page[Any]] = []
        after: str | None = None
        while not pages or after is not None:
            pages.append(store.groups.members("", "g", sort, after, 2))
            after = pages[-1].after
        assert [item.entry_id for page in pages for item in page.items] == list("abegh")
        told = [text for page in pages for text in page.damaged]
        assert len(told) == 3
        assert any("position 2" in text for text in told)
        assert any("'f'" in text for text in told)
        assert all(len(page.items) == 2 for page in pages[:-1])
    status = store.groups.status("", "g")
    assert (status.members, len(status.damaged), status.missing) == (8, 3, 0)
    # Wanted again, its place is whole; what lay there and is not wanted goes.
    assert album(store, "abxdefgh", replace=True) == ["c"]
    assert listed(store)[:4] == ["a", "b", "x", "d"]
    assert store.groups.groups_of("c") == ()
    assert listed(store, sort=MemberSort.TITLE) == list("abxdegh")
    store.close()


def test_a_damaged_group_is_told_among_the_others_and_can_be_replaced_or_dropped(root: str) -> None:
    store = open_store(root)
    for name in ("g", "h", "i"):
        store.groups.put(group(name, title=name), [member("a")], replace=False)
    store.add(entry("a"))
    store.close()
    spoil(root, Table.GROUPS, lambda key: key in {group_key("", "h"), group_key("", "i")})
    store = open_store(root)
    for sort in GroupSort:
        page = store.groups.page("", sort)
        assert [item.id for item in page.items] == ["g"]
        assert len(page.damaged) == 2
    store.groups.put(group("h", title="another"), [member("a")], replace=True)
    assert [item.title for item in store.groups.page("").items] == ["another", "g"]
    assert store.groups.drop("", "i") == []
    assert store.groups.page("").damaged == ()
    assert store.groups.drop("", "h") == []
    assert store.groups.drop("", "g") == ["a"]
    store.close()


def test_a_damaged_line_of_what_is_to_go_is_known_by_its_entry(root: str) -> None:
    store = open_store(root)
    album(store, "ab")
    store.add_many(entry(name) for name in "ab")
    store.groups.drop("", "g")
    store.close()
    assert len(spoil(root, Table.LINKS, lambda key: key.startswith(b"\xff" * KEY_BYTES))) == 2
    store = open_store(root)
    assert sorted(store.groups.leaving()) == ["a", "b"]
    store.close()


# Scopes.


def test_a_scope_that_is_reset_takes_nothing_new_whoever_asks(root: str) -> None:
    store = open_store(root)
    store.groups.begin_reset("x", 1.0)
    store.close(clean=False)
    store = open_store(root)
    assert store.groups.unfinished_resets() == ["x"]
    for call in (
        lambda: store.add(entry("a", scope="x")),
        lambda: store.add_missing([entry("b"), entry("c", scope="x")]),
        lambda: album(store, "a", scope="x"),
    ):
        with pytest.raises(ScopeResetting):
            call()
    assert store.counts()[State.PENDING] == 0
    store.add(entry("a", scope="y"))
    album(store, "a")
    store.groups.end_reset("x")
    store.add(entry("d", scope="x"))
    assert store.groups.unfinished_resets() == []
    store.close()


def test_a_damaged_mark_is_read_from_the_scopes_entries(root: str) -> None:
    store = open_store(root)
    store.add(entry("a", scope="x"))
    store.groups.begin_reset("x", 1.0)
    store.groups.begin_reset("empty", 1.0)
    store.close()
    assert len(spoil(root, Table.META, lambda key: key.startswith(b"reset:"))) == 2
    store = open_store(root)
    assert store.groups.unfinished_resets() == ["x"]
    store.add(entry("b", scope="empty"))
    store.close()


def test_dropping_all_groups_of_a_scope_marks_nothing(store: StateStore) -> None:
    album(store, "ab", "g", scope="x")
    album(store, "bc", "h", scope="x")
    album(store, "d", "g", scope="y")
    store.add_many([*(entry(name, scope="x") for name in "abc"), entry("d", scope="y")])
    assert store.groups.drop_any("x")
    assert store.groups.drop_any("x")
    assert not store.groups.drop_any("x")
    assert store.groups.leaving() == []
    assert [item.id for item in store.groups.page("y").items] == ["g"]
    assert store.groups.groups_of("d") == ("g",)
