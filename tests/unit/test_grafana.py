"""The dashboard asks for the metrics that a run defines, for all of them, by tags that they have, in valid PromQL."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import promql_parser
import pytest

from pipeline.cluster import Placement
from pipeline.config import WriteConfig
from pipeline.watch import metrics
from tests.conftest import REPOSITORY

BOARD: dict[str, Any] = json.loads((REPOSITORY / "k8s" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
AS_TOLD = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}  # what Ray's agent puts behind a name


@pytest.fixture
def defined(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The tags of each metric of a run, by its name at the endpoint."""
    found: dict[str, set[str]] = {}

    def kind(behind: str) -> Any:
        class Noted:
            def __init__(self, name: str, description: str, *more: Any) -> None:
                found[f"ray_{name}{behind}"] = {*more[-1], *(["le"] if behind == "_bucket" else [])}

            def set_default_tags(self, tags: dict[str, str]) -> "Noted":
                return self

            def set(self, value: float) -> None: ...

        return Noted

    for name, behind in AS_TOLD.items():
        monkeypatch.setattr(metrics, name, kind(behind))
    metrics.Metrics(WriteConfig("lake"), Placement(1, 1, 1, 1, 0, "cpu", "auto", "test"))
    return found


def asked() -> Iterator[tuple[str, set[str]]]:
    """Each metric of each query, and the tags that the query names anywhere."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$__range", "6h")
            names, tags = [], set()

            def look(part: Any, names: list[str] = names, tags: set[str] = tags) -> None:
                if isinstance(part, promql_parser.VectorSelector):
                    names.append(part.name)
                    tags.update(matcher.name for matcher in part.matchers.matchers)
                if isinstance(part, promql_parser.AggregateExpr) and part.modifier:
                    tags.update(part.modifier.labels)

            promql_parser.walk(promql_parser.parse(query), look)
            yield from ((name, tags) for name in names)


def test_every_metric_of_a_run_is_on_the_dashboard_and_no_other(defined: dict[str, set[str]]) -> None:
    assert {name for name, _ in asked()} == set(defined)


def test_queries_name_only_tags_that_the_metric_has_and_keep_to_the_chosen_table(defined: dict[str, set[str]]) -> None:
    for name, tags in asked():
        assert {"dataset", "table"} <= tags <= defined[name], name


def test_legends_name_tags_that_the_query_leaves(defined: dict[str, set[str]]) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            sums = re.match(r"sum by \((.*?)\)", target["expr"])
            left = set(sums[1].split(", ")) if sums else defined.get(target["expr"].partition("{")[0], set())
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left, panel["title"]


def test_panels_lie_beside_each_other_and_each_says_what_it_shows() -> None:
    boxes = [panel["gridPos"] for panel in PANELS]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for a, b in combinations(boxes, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)


def test_variables_of_the_queries_are_those_of_the_dashboard() -> None:
    names = {variable["name"] for variable in BOARD["templating"]["list"]}
    assert names == {"datasource", "dataset", "table"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
