"""The nouns: what is asked (Metric, Query), whom (Target), and what came back (Frame, Poll).

They hold data and answer questions about themselves. They import no other part of pgstats.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pgstats.noun import Noun

if TYPE_CHECKING:
    from pgstats.evidence import Sample

Number = int | float
Row = tuple[Any, ...]
Memo = Mapping[str, Any]

PGBOUNCER = "pgbouncer"
POSTGRES = "postgres"
SELF = "self"

#: Why a target can be down: the values of the label ``reason`` of the group ``down``.
REASONS = (
    "refused",
    "timeout",
    "auth",
    "too_many_connections",
    "wrong_database",
    "not_allowed",
    "dns",
    "tls",
    "other",
)


def _shown(noun: Any, hidden: tuple[str, ...]) -> str:
    """The repr of a noun without those of its fields that may hold a secret."""
    fields = (f"{name}={value!r}" for name, value in noun._asdict().items() if name not in hidden)
    return f"{type(noun).__name__}({', '.join(fields)})"


class _Other:
    """Stands where a label's value would be in the row that others were folded into.

    It is no string, so that a table that really is called ``_other`` is told apart from it.
    """

    def __str__(self) -> str:
        return "_other"

    def __repr__(self) -> str:
        return "OTHER"


OTHER = _Other()


class Metric(Noun):
    """One number that can be shipped.

    ``column`` is where it comes from, as a person would ask for it: a column of the SHOW
    command, or an SQL expression over the ``source`` of its `Query`. ``sql`` is what pgstats
    asks instead when that is cheaper. ``plus`` adds further columns, each with its factor
    (``maxwait`` + 0.000001 x ``maxwait_us``). ``formerly`` are the names older servers gave the
    same column. ``words`` are the numbers that stand for a text column's values, "*" for any
    other. ``unsigned`` is for 32 bits that the server prints as if they had a sign. ``fold`` (sum,
    max, min, mean) says how rows that become one are combined, ``across`` how
    the numbers of the processes behind one port are ("" for not at all). ``since`` and
    ``until`` are server versions as libpq numbers them (150018, 11800); ``until`` is the first
    one without it; 0 leaves the side open. From ``wrong_since`` on until before ``right_since``
    servers give a wrong number, which is not sent.

    A derived metric is what the totals in ``of``, each with its factor, grew by since the last
    poll, divided by what the total ``per`` grew by ("seconds": by the time between; "": by 1).
    """

    name: str
    help: str
    unit: str = ""
    # A level; total: counts up since a start or reset; count: since last time; timing: of one run.
    kind: str = "gauge"
    column: str = ""
    sql: str = ""
    plus: Mapping[str, float] = {}
    formerly: tuple[str, ...] = ()
    words: Mapping[str, float] = {}
    unsigned: bool = False
    fold: str = ""
    across: str = "sum"
    since: int = 0
    until: int = 0
    wrong_since: int = 0
    right_since: int = 0
    of: Mapping[str, float] = {}
    per: str = ""

    def origin(self) -> str:
        """The server's own word for this number: a column or an expression."""
        return self.column or self.name

    def on(self, version: int) -> bool:
        """Whether a server of that version can answer it."""
        return self.since <= version and not 0 < self.until <= version

    def right(self, version: int) -> bool:
        """Whether what a server of that version answers can be believed."""
        return not self.wrong_since <= version < self.right_since


class Query(Noun):
    """One question and the numbers it answers.

    ``labels`` maps each label, in the order of the names on the wire, to the column or expression
    it comes from; a label that all rows of an answer share (the database a SELECT ran in) maps to
    "". ``sql`` is the SHOW command, or a SELECT with ``{columns}`` where the metrics go.
    ``source`` is the relation a person would ask instead. ``ignored`` are columns (or glob
    patterns) known and left out on purpose. In ``pairs`` each row is a name and its value, and
    these are the two columns. With a ``budget``, rows with the same labels are folded into one,
    and all but so many of the largest into one more. ``default`` queries are asked unless the
    configuration says otherwise.
    """

    family: str
    group: str
    metrics: tuple[Metric, ...]
    sql: str = ""
    source: str = ""
    labels: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()
    pairs: tuple[str, str] | None = None
    budget: int | None = None
    folds: bool = False  # the SELECT itself does: NULL labels mark the row that holds the rest
    default: bool = True
    per_database: bool = False  # asked in each database rather than once in the cluster
    primary_only: bool = False  # meaningless on a standby
    since: int = 0

    def __hash__(self) -> int:
        """Its dictionaries have none: what is worked out of a query can be remembered by it."""
        return hash((self.family, self.group, self.sql))

    @property
    def title(self) -> str:
        """What a person calls it: the SHOW command, or the group that a SELECT fills."""
        return self.sql if self.family == PGBOUNCER else self.group

    def on(self, version: int) -> tuple[Metric, ...]:
        """The metrics a server of that version can answer, in order."""
        return tuple(metric for metric in self.metrics if metric.on(version))

    def select(self, version: int) -> str:
        """The SQL for a server of that version, its columns named like the metrics."""
        asked = [f"{metric.sql or metric.origin()} AS {metric.name}" for metric in self.on(version)]
        return self.sql.format(columns=",\n       ".join(asked))


class Question(Noun):
    """A question of the user's own: a SELECT that is sent as it stands, and what becomes of it.

    The labels and metrics of ``query`` are columns of its answer, of which at most ``rows`` rows
    are kept. ``databases`` are globs over those that the target polls; without any it is asked in
    the DSN's own. ``interval`` is the seconds between two askings, 0 for every poll.
    """

    query: Query
    databases: tuple[str, ...] = ()
    interval: float = 0.0
    rows: int = 100


class Target(Noun):
    """One PgBouncer process or one PostgreSQL cluster. Its DSN never shows in its repr.

    ``interval`` and ``timeout`` are seconds; ``tables`` is None for "all". With a ``front``, a
    PgBouncer, that knows host, port and databases. Fields of the other family are simply not read.
    """

    family: str
    name: str
    dsn: str
    interval: float = 10.0
    timeout: float = 8.0
    tags: Mapping[str, str] = {}
    password_file: str = ""
    password_command: str = ""
    passfile: str = ""  # a file in the form of ~/.pgpass that pgstats reads itself
    collect: tuple[str, ...] = ()
    counters: str = "gauge"
    include_admin: bool = False
    sockets: tuple[str, ...] = ()  # socket folders of the processes behind one port
    peer: str = ""  # which of them this is
    databases: tuple[str, ...] = ("*",)
    tables: int | None = 50
    sizes: float | None = None  # seconds between two measurements
    exclude_tables: tuple[str, ...] = ()
    pooled: bool = False
    front: Target | None = None
    questions: tuple[Question, ...] = ()

    def __repr__(self) -> str:
        return _shown(self, ("dsn", "password_command"))

    @property
    def title(self) -> str:
        """The name on the wire where there are no tags: one process of a group has its number."""
        return f"{self.name}-{self.peer}" if self.peer else self.name

    @property
    def also(self) -> Mapping[str, str]:
        """What belongs to the target's name besides ``name``: the tag of one process of a group."""
        return {"peer": self.peer} if self.peer else {}

    def frame(self, query: Query, metrics: tuple[Metric, ...], rows: Sequence[Row]) -> Frame:
        """A frame about this target."""
        return Frame.of(query, metrics, rows, self.name, self.also)


class Frame(Noun):
    """One answer, still a table, column by column.

    There is a column of strings (or `OTHER`) for each label of the query, in order, then one of
    numbers (or None for unknown) for each metric of ``metrics``. ``target`` is "" for what is not
    about one target. ``scope`` are the values of the first labels where the frame speaks of those
    alone: the tables of one database say nothing about those of another.
    """

    query: Query
    metrics: tuple[Metric, ...]
    columns: Sequence[Sequence[Any]]
    target: str = ""
    tags: Mapping[str, str] = {}
    scope: Row = ()

    @classmethod
    def of(
        cls,
        query: Query,
        metrics: tuple[Metric, ...],
        rows: Sequence[Row],
        target: str = "",
        tags: Mapping[str, str] = {},
        scope: Row = (),
    ) -> Frame:
        """A frame of rows: what its labels are called, then its numbers."""
        empty = [()] * (len(query.labels) + len(metrics))
        columns = list(zip(*rows, strict=True)) if rows else empty
        return cls(query, metrics, columns, target, tags, scope)

    @property
    def height(self) -> int:
        """How many rows it has."""
        return len(self.columns[0]) if self.columns else 0

    @property
    def labels(self) -> Sequence[Sequence[Any]]:
        """The columns of the labels."""
        return self.columns[: len(self.query.labels)]

    @property
    def keys(self) -> list[Row]:
        """The labels of each row."""
        return list(zip(*self.labels, strict=True)) if self.labels else [()] * self.height

    @property
    def parts(self) -> list[Frame]:
        """The same, and apart the row of the folded rest, of which other numbers are known."""
        if not self.query.folds or self.height < 2 or self.labels[-1][-1] is not OTHER:
            return [self]
        cuts = slice(0, -1), slice(-1, None)
        return [self._replace(columns=[column[cut] for column in self.columns]) for cut in cuts]

    @property
    def numbers(self) -> Sequence[Sequence[Number | None]]:
        """The columns of the metrics."""
        return self.columns[len(self.query.labels) :]

    @property
    def rows(self) -> list[Row]:
        """The same row by row: made anew each time."""
        return list(zip(*self.columns, strict=True))


class Table(Noun):
    """All that is known of one group: the frames of all targets, joined for people.

    Each row holds one string for each of ``labels``, the first of which is ``target``, then one
    number (or None for unknown) per metric of ``metrics``.
    """

    group: str
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: Sequence[Row]


#: What the system says where files or memory have run out.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_MORE = "let pgstats have more files and memory: LimitNOFILE= and MemoryMax= in its unit, or ulimit"


class Failure(Noun):
    """One thing that did not work: what was tried, why it failed, what to do about it.

    Where pgstats itself is to blame, ``trace`` is the traceback, else "".
    """

    stage: str
    reason: str
    message: str
    remedy: str = ""
    trace: str = ""

    @classmethod
    def bug(cls, stage: str, error: BaseException) -> Failure:
        """What a bug does to a step. The exception's message, which may hold a secret, is left out.

        Where files or memory have run out nobody is to blame.
        """
        if isinstance(error, MemoryError) or getattr(error, "errno", 0) in _SCARCE:
            text = f"the machine gives no more: {str(error) or 'memory'}"
            return cls(stage, "other", text, _MORE)
        from traceback import extract_tb  # noqa: PLC0415 - hardly ever needed

        from pgstats.errors import traced  # noqa: PLC0415

        frames = extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        text = f"a bug in pgstats: {type(error).__name__}{where}"
        cure = "please report it; --verbose tells more"
        return cls(stage, "other", text, cure, traced(error))

    def __repr__(self) -> str:
        return _shown(self, ("trace",))

    def __str__(self) -> str:
        text = f"{self.stage}: {self.message}" if self.stage else self.message
        return f"{text} ({self.remedy})" if self.remedy else text


class Site(Noun):
    """Where a server is: all that its machine is known by, and the port.

    With ``several`` it is on one of several machines, and nobody knows on which.
    """

    hosts: tuple[str, ...]
    port: str
    several: bool = False


class Poll:
    """All that one target answered, and all that failed. A failed poll is a value.

    ``down`` is set when the target could not be asked at all. ``at`` is when its numbers were true,
    on the monotonic clock (0: nobody noted it). ``seconds`` is the whole time spent, ``counts``
    holds what was left out or met on the way, by the names of `self.poll`.
    ``identity`` tells the process that answered from any other, "" where that is not known.
    """

    def __init__(
        self,
        target: Target,
        frames: Iterable[Frame] = (),
        *,
        failures: Iterable[Failure] = (),
        down: Failure | None = None,
        version: int = 0,
        at: float = 0.0,
        seconds: float = 0.0,
        counts: Mapping[str, int] = {},
        peers: Iterable[Poll] = (),
        notes: Iterable[str] = (),
    ) -> None:
        self.target = target
        self.frames = list(frames)
        self.failures = list(failures)
        self.down = down
        self.version = version
        self.at = at
        self.seconds = seconds
        self.counts = dict(counts)
        self.identity = ""
        self.complete = False  # its statistics are known to reach back to the making of the cluster
        self.process = ""  # which process it is for certain, "" where nothing proves it
        self.console: dict[str, Number] = {}  # SHOW STATS of the console itself
        self.place: Site | None = None  # where the server itself is, None where that is unknown
        self.settings: dict[str, Any] = {}  # autovacuum's, by which tables are judged
        self.over: dict[str, list[int]] = {}  # oids of tables over their threshold
        self.leads: dict[str, Site] = {}  # where a PgBouncer's databases are
        self.refused: dict[str, str] = {}  # databases left out, and why
        self.draining = False  # a PgBouncer that takes no new clients over TCP any more
        self.shared = False  # its PgBouncer's port may be that of other processes too
        self.siblings: list[tuple[str, str, str]] = []  # number, folder, port
        self.peers = list(peers)  # instead of frames: a poll of each process
        self.partial = False  # rows may be missing: not every process behind the port answered
        self.notes = list(notes)  # nothing failed, but somebody should know
        self.memo: Memo = {}  # what its asker wants to know the next time, for JSON
        self.sample: Sample | None = None  # a PostgreSQL's sessions, slots and vacuums

    def but(self, **changes: Any) -> Poll:
        """The same poll with some of its fields changed."""
        found = Poll(self.target)
        vars(found).update(vars(self), **changes)
        return found

    @property
    def up(self) -> bool:
        """Whether the target let us in and answered."""
        return self.down is None

    @property
    def ok(self) -> bool:
        """Whether every question was answered."""
        return self.up and not self.failures

    def problems(self) -> list[Failure]:
        """Everything that failed, the reason for being down first."""
        return ([self.down] if self.down else []) + self.failures


class Finding(Noun):
    """What a check found: ``status`` is ok, failed or note; ``trace`` as in `Failure`."""

    status: str
    message: str
    remedy: str = ""
    trace: str = ""

    def __repr__(self) -> str:
        return _shown(self, ("trace",))
