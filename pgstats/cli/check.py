"""`pgstats check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import BUG, CONFIG, FAILED, OK
from pgstats.cli.options import configured, log_of, option, overlaps, with_targets
from pgstats.cli.progress import progress
from pgstats.errors import ConfigError
from pgstats.log import DEBUG, Log

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.model import Finding


@click.command("check")
@with_targets
@option("--offline", is_flag=True, help="Validate the configuration without connecting.")
@option(
    "--show-config",
    is_flag=True,
    help="Print the merged configuration and where each value comes from, secrets masked.",
)
@option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, offline: bool, show_config: bool, as_json: bool, **options: Any) -> int:
    """Proves that each target, credential, privilege and the statsd address work."""
    try:
        config = configured(options)
    except ConfigError as error:
        if not as_json:
            raise
        _print([_entry("configuration", "failed", fault) for fault in error.faults])
        return CONFIG
    if show_config:
        from pgstats.config.showing import show  # noqa: PLC0415

        for line in show(config):
            click.echo(line)
        return OK
    if offline:
        return _valid(config, as_json=as_json)
    return _report(_findings(config), log_of(options), as_json=as_json, quiet=options["quiet"])


def _valid(config: Config, *, as_json: bool) -> int:
    """Say that the configuration has no fault, and what it has instead."""
    many = len(config.targets)
    where = config.path or "options and environment"
    text = f"{where}: valid, {many} target{'s' * (many != 1)}"
    notes = [(target.name, note) for target in config.targets if (note := overlaps(target))]
    if as_json:
        _print(
            [
                _entry("configuration", "ok", text),
                *(_entry(name, "note", note) for name, note in notes),
            ]
        )
    else:
        click.echo("\n".join([text, *(f"note   {name}: {note}" for name, note in notes)]))
    return OK


def _findings(config: Config) -> Iterator[tuple[str, Finding]]:
    from pgstats.ask.proof import prove  # noqa: PLC0415
    from pgstats.model import Finding  # noqa: PLC0415

    for target in config.targets:
        if text := overlaps(target):
            yield target.name, Finding("note", text)
        with progress(f"asking {target.name}"):
            found = _bounded("check", partial(prove, target))
        yield from ((target.name, finding) for finding in found)
    with progress("looking for statsd"):
        found = _bounded("probe", lambda: [_statsd(config)])
    yield from (("statsd", finding) for finding in found)


def _bounded(stage: str, prove: Callable[[], list[Finding]]) -> list[Finding]:
    """What is found; a bug is a finding too, and the rest is looked at all the same."""
    from pgstats.model import Failure, Finding  # noqa: PLC0415

    try:
        return prove()
    except Exception as error:
        bug = Failure.bug(stage, error)
        return [Finding("failed", f"{stage}: {bug.message}", bug.remedy, bug.trace)]


def _statsd(config: Config) -> Finding:
    """A blank line to the receiver: harmless to all, and refused where nobody listens."""
    from pgstats.model import Finding  # noqa: PLC0415
    from pgstats.ship import cure, said, wire  # noqa: PLC0415

    to = wire(config.statsd.url)
    if fault := to.probe():
        return Finding("failed", f"{to.url}: {said(fault)}", cure(fault))
    if to.url.startswith("udp://"):
        return Finding("ok", f"{to.url}: a datagram left and was not refused; UDP tells no more")
    return Finding("ok", f"{to.url}: connected and written to")


def _report(
    findings: Iterator[tuple[str, Finding]], log: Log, *, as_json: bool, quiet: bool
) -> int:
    code = OK
    found = []
    for name, finding in findings:
        if finding.status == "failed" and code != BUG:
            code = BUG if finding.trace else FAILED
        for line in finding.trace.splitlines():
            log.tell(DEBUG, line)
        found.append(_entry(name, finding.status, finding.message, finding.remedy))
        if not as_json and not (quiet and finding.status == "ok"):
            click.echo(f"{finding.status:<6} {name}: {finding.message}")
            if finding.remedy:
                click.echo(f"       -> {finding.remedy}")
    if as_json:
        _print(found)
    return code


def _entry(target: str, status: str, message: str, remedy: str = "") -> dict[str, str]:
    return {"target": target, "status": status, "message": message, "remedy": remedy}


def _print(entries: Sequence[dict[str, str]]) -> None:
    import json  # noqa: PLC0415

    click.echo(json.dumps(entries, indent=1))
