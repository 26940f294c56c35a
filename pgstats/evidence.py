"""The nouns of `pgstats why`: what a cluster and its poolers say, and what that proves.

Like those of `pgstats.model` they hold data and import no verb. A `Record` is one row by the names
of its columns. Times are seconds since the epoch by the server's clock, ages of transaction ids are
in transactions, ids themselves are the 32-bit numbers that the server shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgstats.model import Failure
from pgstats.noun import Noun

Record = Mapping[str, Any]

CRITICAL, WARNING, INFO = "critical", "warning", "info"
SEVERITIES = (CRITICAL, WARNING, INFO)

#: Who can hold the horizon: the values of the label ``holder`` of the group ``horizon``.
BACKEND, PREPARED, STANDBY = "backend", "prepared", "standby"
SLOT_XMIN, SLOT_CATALOG_XMIN = "slot_xmin", "slot_catalog_xmin"
HOLDERS = (BACKEND, PREPARED, SLOT_XMIN, SLOT_CATALOG_XMIN, STANDBY)


def dotted(*names: str) -> str:
    """Names as one writes them on a command line: those with a dot or a quote are quoted."""
    return ".".join(map(_part, names))


def _part(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"' if "." in name or doubled != name else name


class View(Noun):
    """Something that is read whole, once a sample; what it means is worked out here.

    ``sql`` gives one jsonb value a row, so that columns that come and go with versions are there
    by name or not at all. ``always`` views are read at every poll, the others for `why` alone.
    """

    name: str
    sql: str
    always: bool = True
    since: int = 0
    help: str = ""


class Sample(Noun):
    """What a cluster said of itself at one moment.

    ``views`` are rows by the name of their `View`; ``heaps`` are rows of the heaps that were
    looked at, by database. ``missing`` says of each view that could not be read why not.
    """

    version: int
    views: Mapping[str, Sequence[Record]]
    heaps: Mapping[str, Sequence[Record]] = {}
    missing: Mapping[str, Failure] = {}

    def rows(self, view: str) -> Sequence[Record]:
        """The rows of a view; none where it could not be read."""
        return self.views.get(view, ())

    @property
    def server(self) -> Record:
        """The one row about the server itself."""
        rows = self.rows("server")
        return rows[0] if rows else {}

    @property
    def at(self) -> float:
        """When it was taken, on the server's clock."""
        return float(self.server.get("at") or 0.0)

    def setting(self, name: str) -> str:
        """A setting of the server as text, "" where it does not exist."""
        found = (row["setting"] for row in self.rows("settings") if row["name"] == name)
        return str(next(found, "") or "")


class Asked(Noun):
    """The table that somebody asks about; without a schema given it may be in several."""

    database: str
    schemas: tuple[str, ...]
    table: str

    @property
    def title(self) -> str:
        """As it is written in a report: database.schema.table."""
        return dotted(self.database, "|".join(self.schemas), self.table)


class Holder(Noun):
    """Somebody who keeps dead rows from being removed.

    ``cause`` is the id of the cause that this is, ``kind`` one of `HOLDERS`. ``database`` is whose
    tables it holds, "" for all; with ``catalogs`` it holds system catalogs alone. ``xid`` is the
    oldest transaction that it needs, ``since`` when it began (None: nobody knows). ``key`` tells it
    from all others at any time; ``row`` is what the server shows of it.
    """

    cause: str
    kind: str
    key: str
    row: Record
    xid: int
    xid_age: int
    database: str = ""
    catalogs: bool = False
    since: float | None = None

    @property
    def hold(self) -> tuple[str, int]:
        """What stays the same as long as it goes on holding: itself and the transaction."""
        return self.key, self.xid

    @property
    def name(self) -> str:
        """As a person is told who it is."""
        names = {"pid": "pid", "gid": "prepared transaction", "slot_name": "slot"}
        return next(f"{name} {self.row[key]}" for key, name in names.items() if key in self.row)


class Innocent(Noun):
    """Somebody who looks guilty and is not, and the reason."""

    who: str
    why: str


class Limit(Noun):
    """What could not be looked at, why, and the statement that would change it ("" for none)."""

    what: str
    why: str
    grant: str = ""


class Remedy(Noun):
    """A statement or command that ends a cause. It is printed, never run.

    ``where`` says on which server or console, and in which database if that matters; ``needs`` is
    the right that it takes. In a `Cause` both texts are templates over the evidence.
    """

    command: str
    where: str = "{target}"
    needs: str = ""


class Client(Noun):
    """The application at the other end of a pooler, or of several.

    ``via`` names each PgBouncer and its database on the way, nearest to PostgreSQL first. ``proof``
    says how sure it is that the pooler's connection is this session: socket, unix or weak. Where
    it could not be followed to its end, ``note`` says why.
    """

    addr: str
    port: int | None = None
    pid: int | None = None
    application_name: str = ""
    user: str = ""
    via: tuple[Mapping[str, str], ...] = ()
    proof: str = ""
    silent: float | None = None  # seconds since its last request
    kill: str = ""  # the console's command that ends it, where it has one
    note: str = ""


class Links(Noun):
    """What one PgBouncer process shows of its connections: who is linked with whom.

    ``servers``, ``clients`` and ``databases`` are the rows of the SHOW commands by column.
    """

    pgbouncer: str
    version: int
    servers: Sequence[Record]
    clients: Sequence[Record]
    databases: Sequence[Record] = ()
