"""Whether a source still has the bytes that are held, when its own words are not enough to tell."""

from __future__ import annotations

import logging

from msgspec.structs import replace

from engine.errors import Changed, ChangeRefused, Incomparable, PerhapsChanged
from engine.model.records import DownloadEntry, OnChange, Representation
from engine.transfer.part_job import PartJob
from engine.transfer.same_bytes import check_same_bytes
from engine.transfer.services import Services
from engine.transfer.sources import Sources

log = logging.getLogger("engine")

# Beyond so many ETags for the same bytes (one each server of a site, say) they are no validators any more.
OTHER_ETAGS_MAX = 8


async def settle(services: Services, sources: Sources, job: PartJob, doubt: PerhapsChanged) -> None:
    """Compare two held chunks with the source's and, when they are the same, take its new validators for those of the
    bytes that are held. Nothing of the job is on its way meanwhile.

    Raises Changed when they differ or none is held, or there are several sources, which would make too much of one's
    doubt; and whatever asking again raises.
    """
    if sources.several:
        raise Changed(str(doubt)) from doubt
    if not job.held.held:
        raise Changed(f"{doubt}; and nothing is held yet that could be compared")
    known = job.record.representation
    # Any ETag will do while the bytes themselves are compared: each server of a site may have its own.
    without = replace(known, etag="", other_etags=(), last_modified=known.last_modified if doubt.etag else "")
    await check_same_bytes(services, sources.lead, job, without)
    job.record = replace(job.record, representation=_settled(known, doubt.etag))
    await services.write(services.store.put_part, job.entry_id, job.epoch, job.record)
    log.info("entry %s: %s; its bytes are the same", job.entry_id, doubt)


def _settled(known: Representation, etag: str) -> Representation:
    """What identifies the bytes from now on, if they are the same."""
    if not etag:
        return replace(known, etag="", other_etags=(), last_modified="", young=False)
    if len(known.other_etags) >= OTHER_ETAGS_MAX:
        return replace(known, etag="", other_etags=())
    return replace(known, etag=etag, other_etags=(*known.other_etags, known.etag))


def refuse_if_asked(entry: DownloadEntry, change: Changed) -> None:
    """Raise ChangeRefused when the caller would rather have no file than another version. (Where nothing tells whether
    it is another, none was seen.)"""
    if entry.on_change is OnChange.FAIL and not isinstance(change, Incomparable):
        raise ChangeRefused(str(change)) from change
