"""What a run says at its end."""

import json
from dataclasses import replace

from pipeline.summary import Summary
from pipeline.watch.busy import Share

SUMMARY = Summary(
    run_id="r",
    outcome="done",
    table="/lake/laion.lance",
    shards=5,
    skipped=1,
    committed=4,
    elsewhere=0,
    failures={},
    quarantined={},
    replaced=0,
    touched=0,
    vanished=(),
    pruned=(),
    rows=90,
    rejects={"truncated": 4, "no_caption": 6},
    truncated=2,
    seconds=50.0,
    busy={"read": 10.0, "infer": 30.0, "write": 0.0},
    calls=9,
    pairs_per_call=10.0,
    commits=3,
    conflicts=0,
    version=7,
)


def test_summary_counts_pairs_and_their_rate() -> None:
    assert (SUMMARY.pairs, SUMMARY.pairs_per_second) == (100, 2.0)
    assert replace(SUMMARY, seconds=0.0).pairs_per_second == 0.0


def test_summary_reads_as_a_person_wants_it() -> None:
    assert SUMMARY.lines() == [
        "rows 90   rejects 10 (no_caption 6, truncated 4)   captions cut 2",
        "took 50s   2.0 pairs/s   9 model calls of 10.0 pairs",
        "busy: read 10.0 s, infer 30.0 s, write 0.0 s",
        "/lake/laion.lance is at version 7, 3 commits by this run",
    ]


def test_summary_tells_who_waited() -> None:
    told = replace(SUMMARY, at_work={"read": Share(2, 0.551), "infer": Share(1, 0.92)})
    assert told.lines()[2] == (
        "busy: read 10.0 s, infer 30.0 s, write 0.0 s; 1 actor 92% of its time in the model; "
        "2 readers 55% of their time reading"
    )
    assert told.to_dict()["at_work"]["infer"] == {"workers": 1, "share": 0.92}


def test_summary_says_if_the_store_had_to_be_asked_again() -> None:
    assert replace(SUMMARY, asked_again=7).lines()[4:] == [
        "readers and writers asked their store again, after an error, 7 times"
    ]


def test_summary_names_every_failed_quarantined_and_vanished_shard_once() -> None:
    failures = {"a.tar": "a.tar: cut", "b.tar": "its end record never came"}
    more = {"quarantined": {"c.tar": "c.tar: cut"}, "replaced": 1, "touched": 2, "vanished": ("d.tar",)}
    assert replace(SUMMARY, failures=failures, elsewhere=2, **more).lines()[4:] == [
        "failed: a.tar: cut",
        "failed: b.tar: its end record never came",
        "quarantined, not read (--retry-failed reads it): c.tar: cut",
        "changed: 1 shards; only copied or touched: 2",
        "committed by another job first: 2 slices",
        "vanished, its rows stay (--prune removes them): d.tar",
    ]
    assert replace(SUMMARY, report="lake/laion_reports/r.html").lines()[4:] == ["report: lake/laion_reports/r.html"]
    gone = replace(SUMMARY, vanished=("d.tar",), pruned=("d.tar",))
    assert gone.lines()[4:] == ["vanished, its rows were removed: d.tar"]


def test_summary_of_a_run_that_did_nothing_divides_by_nothing() -> None:
    idle = replace(SUMMARY, rows=0, rejects={}, seconds=0.0, busy={"read": 0.0, "infer": 0.0}, calls=0)
    assert "rejects 0 (none)" in idle.lines()[0]
    assert idle.lines()[2] == "busy: read 0.0 s, infer 0.0 s"


def test_summary_for_machines_is_json_with_the_derived_figures() -> None:
    told = json.loads(json.dumps(SUMMARY.to_dict()))
    assert (told["pairs"], told["pairs_per_second"], told["rejects"]["no_caption"]) == (100, 2.0, 6)
