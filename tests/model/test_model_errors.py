"""Every error tells whose fault it is and what to do, and only a bug is called one."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from engine import errors
from engine.errors import RETRYABLE_STATUSES, EngineError, Fault, HttpStatus, TransferError, storage_error
from engine.model.retry import POLICIES, policy_of


def _all_below(kind: type[EngineError]) -> Iterator[type[EngineError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _all_below(child)


KINDS = sorted({kind for kind in _all_below(EngineError) if kind.__module__.startswith("engine.")}, key=str)
BUG = EngineError.advice
# What stores out there hold already.
CODES = """
network dns resolver no_route refused timeout connection_lost stalled tls server protocol http_status bad_range redirect
encoded unverifiable_length changed integrity io no_space too_many_files read_only permission target_exists target_gone
target_invalid part_lost too_big internal poison closed failed illegal_transition invalid_request unknown_entry
stale_epoch store store_busy store_corrupt store_record store_too_new store_unusable entry_exists forked_process
host_exhausted events_lost superseded unknown_group scope_resetting wrong_thread store_gone store_copied
part_busy not_mounted
"""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_gives_advice_that_fits_its_fault(kind: type[EngineError]) -> None:
    assert kind.advice.endswith(BUG) == (kind.fault is Fault.ENGINE)
    assert kind.advice[0].isupper()
    assert kind.advice.endswith(".")
    assert kind.__doc__


def test_codes_are_stable_and_tell_classes_apart() -> None:
    """They are persisted and shown: a code is declared by one class, and never renamed or lost."""
    declared = [kind.code for kind in KINDS if "code" in vars(kind)]
    assert len(declared) == len(set(declared))
    assert set(declared) >= set(CODES.split())


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if issubclass(kind, TransferError)], ids=lambda kind: kind.code
)
def test_whether_trying_again_can_help_is_decided_for_every_class(kind: type[TransferError]) -> None:
    """A misspelt or forgotten code would quietly get a default."""
    assert kind.code in POLICIES
    assert kind.retryable == (POLICIES[kind.code].tries > 1)


@pytest.mark.parametrize("status", range(300, 600))
def test_whether_trying_again_can_help_is_decided_for_every_status(status: int) -> None:
    error = HttpStatus("x", status=status)
    assert error.code in POLICIES or not error.retryable
    assert (policy_of(error).tries > 1) == (status in RETRYABLE_STATUSES)


def test_every_error_can_be_imported_from_one_place() -> None:
    assert {kind.__name__ for kind in KINDS} <= set(errors.__all__)


# What a caller reads must name the thing to change.
ADVICE = {
    "TooManyFiles": ("RLIMIT_NOFILE", "fewer connections"),
    "NoSpace": ("Free some space", "bytes so far are kept"),
    "TargetInvalid": ("another destination", "shorter names"),
    "TargetExists": ("another output", "overwrite"),
    "TargetGone": ("Create the folder", "mount"),
    "StoreCorrupt": ("'store' of the root aside", "Finished files stay", "fetched again", "overwrite"),
    "IntegrityError": ("what is expected", "source has other bytes", "another program wrote"),
}


@pytest.mark.parametrize("name", ADVICE)
def test_advice_names_what_to_change(name: str) -> None:
    advice = getattr(errors, name).advice
    assert [words for words in ADVICE[name] if words not in advice] == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "credentials"), (404, "Check the URL"), (410, "another source"), (503, "later"), (418, "")],
)
def test_a_status_has_advice_of_its_class(status: int, words: str) -> None:
    error = HttpStatus("x", status=status)
    assert words in error.advice
    assert (error.advice == HttpStatus.advice) == (not words)


@pytest.mark.parametrize(
    ("number", "code", "fault"),
    [
        (errno.EMFILE, "too_many_files", Fault.HOST),
        (errno.ENFILE, "too_many_files", Fault.HOST),
        (errno.ENAMETOOLONG, "target_invalid", Fault.CALLER),
        (errno.ELOOP, "target_invalid", Fault.CALLER),
        (errno.ENOTDIR, "target_invalid", Fault.CALLER),
        (errno.ENOENT, "target_gone", Fault.STORAGE),
        (errno.ENOSPC, "no_space", Fault.STORAGE),
        (errno.EIO, "io", Fault.STORAGE),
    ],
)
def test_the_systems_errors_have_kinds(number: int, code: str, fault: Fault) -> None:
    error = storage_error(OSError(number, "words of the system"), "file f")
    assert (error.code, error.fault, str(error)) == (code, fault, "file f: words of the system")
