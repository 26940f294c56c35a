"""Panels and rules speak of the catalogue, of all of it, and say what they must."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from pgstats.overview import LEFT_OUT, METRICS, PANELS, RULES, Panel, Rule, Series

SHOWN = {series.metric for panel in PANELS for series in panel.series}


def test_every_metric_is_on_the_dashboard_or_left_out_for_a_reason() -> None:
    left = {name for name in METRICS if any(fnmatchcase(name, glob) for glob in LEFT_OUT)}
    assert set(METRICS) - SHOWN - left == set()


@pytest.mark.parametrize("glob", LEFT_OUT)
def test_what_is_left_out_exists_and_is_not_shown_after_all(glob: str) -> None:
    found = {name for name in METRICS if fnmatchcase(name, glob)}
    assert found - SHOWN
    whole_group = glob.endswith(".*")
    assert whole_group or not found & SHOWN


def named(series: Series) -> set[str]:
    return {series.metric, *series.per}


def test_whatever_is_named_exists() -> None:
    every = [series for panel in PANELS for series in panel.series]
    for rule in RULES:
        also = [one for level in rule.levels().values() for one in level.also]
        every += [rule.series, *(one.series for one in (rule.size, *also, *rule.muted))]
    for series in every:
        assert named(series) <= set(METRICS)
        assert set(series.kept) | set(series.where) <= set(series.labels)
        assert series.how in ("sum", "max", "min")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_has_one_axis_and_says_what_it_is_for(panel: Panel) -> None:
    assert {series.unit for series in panel.series} == {panel.unit}
    assert panel.decides.endswith(".")


def test_titles_are_unique() -> None:
    assert len({panel.title for panel in PANELS}) == len(PANELS)
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert len({rule.title for rule in RULES}) == len(RULES)


def test_whether_it_is_alive_comes_first() -> None:
    first, second = PANELS[:2]
    assert {"pgbouncer.up", "postgres.up"} == {series.metric for series in first.series}
    assert all(series.age for series in second.series)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
class TestRule:
    def test_it_lasts_and_has_a_reason(self, rule: Rule) -> None:
        levels = rule.levels()
        assert levels
        assert all(level.seconds >= 60 for level in levels.values())
        assert rule.reason.endswith(".")
        assert rule.cure
        assert rule.ask.split()[0] == "pgstats"

    def test_critical_is_worse_than_warning(self, rule: Rule) -> None:
        if not (rule.warning and rule.critical):
            return
        worse, bad = rule.critical, rule.warning
        further = worse.limit > bad.limit if rule.sign == ">=" else worse.limit < bad.limit
        longer = worse.limit == bad.limit and worse.seconds > bad.seconds
        assert further or longer or worse.also

    def test_it_never_looks_at_the_time_of_a_vacuum_alone(self, rule: Rule) -> None:
        assert "vacuum_age" not in rule.series.metric

    def test_counts_of_rows_are_muted_where_they_mean_nothing(self, rule: Rule) -> None:
        of_rows = {"n_dead_tup", "tables_over_trigger", "vacuum_trigger_ratio", "dead_ratio"}
        of_rows |= {"tables_vacuumed_in_vain"}
        if named(rule.series) & {name for name in METRICS if name.rpartition(".")[2] in of_rows}:
            muted = {one.series.metric for one in rule.muted}
            assert muted >= {"postgres.server.in_recovery", "postgres.server.stats_age_seconds"}

    def test_its_parts_are_about_its_rows_or_about_whole_targets(self, rule: Rule) -> None:
        """What renderers rely on."""
        own = set(rule.series.keys)
        also = [one for level in rule.levels().values() for one in level.also]
        for one in (rule.size, *also, *rule.muted):
            keys = set(one.series.keys)
            assert keys in (own, {"target"}) or (rule.series.per and keys > own)
        if rule.series.per:
            assert rule.sign == ">="  # nothing, divided by something, is small
            assert set(rule.series.whole[0].keys) in (own, {"target"})
