"""`pgstats check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import FAILED, OK
from pgstats.cli.options import configured, with_targets

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.model import Finding


@click.command("check")
@with_targets
@click.option("--offline", is_flag=True, help="Validate the configuration without connecting.")
@click.option(
    "--show-config",
    is_flag=True,
    help="Print the merged configuration and where each value comes from, secrets masked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, offline: bool, show_config: bool, as_json: bool, **options: Any) -> int:
    """Proves that each target, credential, privilege and the statsd address work."""
    config = configured(options)
    if show_config:
        from pgstats.config import show  # noqa: PLC0415

        for line in show(config):
            click.echo(line)
        return OK
    if offline:
        many = len(config.targets)
        where = config.path or "options and environment"
        click.echo(f"{where}: valid, {many} target{'s' * (many != 1)}")
        return OK
    return _report(_findings(config), as_json=as_json, quiet=options["quiet"])


def _findings(config: Config) -> Iterator[tuple[str, Finding]]:
    from pgstats.ask import prove  # noqa: PLC0415

    for target in config.targets:
        for finding in prove(target):
            yield target.name, finding
    yield "statsd", _statsd(config)


def _statsd(config: Config) -> Finding:
    """A blank line to the receiver: harmless to all, and refused where nobody listens."""
    from pgstats.model import Finding  # noqa: PLC0415
    from pgstats.ship import wire  # noqa: PLC0415

    to = wire(config.statsd.url)
    if fault := to.probe():
        return Finding(
            "failed",
            f"{to.url}: {fault}",
            "start the receiver, or set the address: [statsd] url, --statsd, $PGSTATS_STATSD",
        )
    if to.url.startswith("udp://"):
        return Finding("ok", f"{to.url}: a datagram left and was not refused; UDP tells no more")
    return Finding("ok", f"{to.url}: connected and written to")


def _report(findings: Iterator[tuple[str, Finding]], *, as_json: bool, quiet: bool) -> int:
    code = OK
    found = []
    for name, finding in findings:
        code = FAILED if finding.status == "failed" else code
        found.append(
            {
                "target": name,
                "status": finding.status,
                "message": finding.message,
                "remedy": finding.remedy,
            }
        )
        if not as_json and not (quiet and finding.status == "ok"):
            click.echo(f"{finding.status:<6} {name}: {finding.message}")
            if finding.remedy:
                click.echo(f"       -> {finding.remedy}")
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(found, indent=1))
    return code
