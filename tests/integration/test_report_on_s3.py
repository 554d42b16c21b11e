"""A report beside a table in a bucket: under its own name and of its own type, so that a browser shows it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.reports.place import remove_reports
from pipeline.reports.report import reported
from tests.ingest import Lake
from tests.reports import RUN, ran, summary


def test_report_is_written_to_a_bucket(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.reports import report

    monkeypatch.setattr(report, "_page", lambda ran, summary: type("Page", (), {"html": lambda self: "<p>é"})())
    here = ran(Lake(tmp_path))
    there = replace(here.database, uri=f"s3://{bucket.name}/lake")
    done = reported(replace(here, database=there), summary(), print)
    assert done.report == f"s3://{bucket.name}/lake/laion_reports/{RUN}.html"
    other = bucket.put_object(Key="lake/laion.lance/of-the-table", Body=b"stays")
    kept = bucket.Object(f"lake/laion_reports/{RUN}.html").get()
    assert (kept["Body"].read().decode(), kept["ContentType"]) == ("<p>é", "text/html")
    assert (remove_reports(there), remove_reports(there)) == (1, 0)
    assert [each.key for each in bucket.objects.all()] == [other.key]
