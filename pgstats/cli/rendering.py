"""What `pgstats dashboard`, `pgstats mapping` and `pgstats alerts` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import OK
from pgstats.cli.options import configured, option, with_targets

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.overview import Fleet


def rendering(thing: str, help: str) -> click.Command:  # noqa: A002
    """The command that prints one of the things that `pgstats.render` makes."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        from pgstats.render import KINDS  # noqa: PLC0415

        return [kind for kind in KINDS[thing] if kind.startswith(incomplete)]

    @click.command(thing, help=help)
    @click.argument("kind", required=False, default="", shell_complete=complete)
    @with_targets
    @option("--list", "listed", is_flag=True, help="Tell the kinds.")
    @option(
        "--under",
        default="stats.gauges",
        show_default=True,
        metavar="NAME",
        help="What statsd puts before the names of gauges in Graphite; '' for nothing.",
    )
    def command(*, kind: str, listed: bool, under: str, **options: Any) -> int:
        from pgstats.render import KINDS, render  # noqa: PLC0415

        kinds = KINDS[thing]
        if listed or not kind:
            width = max(map(len, kinds))
            for name, text in kinds.items():
                click.echo(f"{name:<{width}}  {text}")
            return OK
        if kind not in kinds:
            raise click.BadParameter(f"one of {', '.join(kinds)}", param_hint="KIND")
        click.echo(render(thing, kind, _fleet(configured(options), under)), nl=False)
        return OK

    return command


def _fleet(config: Config, under: str) -> Fleet:
    from pgstats.overview import Fleet  # noqa: PLC0415
    from pgstats.spell import clean  # noqa: PLC0415

    names = {
        family: tuple(clean(target.name) for target in config.targets if target.family == family)
        for family in ("pgbouncer", "postgres")
    }
    questions = {q.query.group: q.query for t in config.targets for q in t.questions}
    return Fleet(
        config.prefix,
        config.statsd.dialect,
        **names,
        interval=max(target.interval for target in config.targets),
        questions=tuple(questions.values()),
        under=under,
    )
