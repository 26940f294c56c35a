"""Keeps one poll to one server, and one fault to one failure."""

from __future__ import annotations

from pgstats.ask.session import Session
from pgstats.catalogue.postgres.server import IDENTITY
from pgstats.errors import AskError


class Elsewhere(AskError):
    """A second connection has led to another server than the first."""


def same_server(guest: Session, identity: str) -> None:
    """Raise `Elsewhere` unless a second connection has led to the same server as the first.

    With several hosts in the DSN, behind a balancer or in the middle of a failover it may be a
    standby, whose tables all seem to have no dead rows.
    """
    _, rows = guest.ask(f"SELECT {IDENTITY}", stage="identity of the server")
    if rows[0][0] != identity:
        text = "another server answers than the one that was asked first"
        cure = "a failover is over by the next poll; else target_session_attrs=read-write helps"
        raise Elsewhere("identity of the server", "other", text, cure)


def cut_off(error: AskError) -> AskError:
    """The failure of a question that took the connection with it: all that was to come is missing.

    One failure says so, rather than one for each question that nobody could answer any more.
    """
    text = f"{error}; the rest of the poll is missing"
    return AskError(error.stage, error.reason, text, error.remedy)
