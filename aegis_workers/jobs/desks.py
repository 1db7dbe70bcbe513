"""Which desk answers here."""

from aegis_workers.jobs import submission
from aegis_workers.jobs.desk import Desk, Receipt
from aegis_workers.jobs.sources import Source
from aegis_workers.jobs.spool import Spool
from aegis_workers.jobs.submission import Terms
from aegis_workers.settings import Settings


def open_desk(settings: Settings) -> Desk:
    """The one of another host where `AEGIS_ADMIN_URL` is set, else this host's own. Opens nothing before it is asked."""
    # Each takes its time to load, and a command needs one of them.
    if settings.admin_url is not None:
        from aegis_workers.jobs.remote import RemoteDesk  # noqa: PLC0415

        return RemoteDesk(settings)
    from aegis_workers.jobs.local import LocalDesk  # noqa: PLC0415

    return LocalDesk(settings)


def submit(settings: Settings, source: Source, terms: Terms) -> Receipt:
    """As `Desk.submit`; where the jobs are this host's, nothing is loaded or asked that knows Redis."""
    if settings.admin_url is None:
        return submit_here(settings, source, terms)
    with open_desk(settings) as desk:
        return desk.submit(source, terms)


def submit_here(settings: Settings, source: Source, terms: Terms) -> Receipt:
    """As `Desk.submit`, into the folder of this host."""
    submitted = submission.write(Spool(settings.data_dir), source, terms, settings)
    return Receipt(manifest=submitted.job.manifest, is_new=submitted.is_new)
