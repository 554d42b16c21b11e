"""What is said of stores tells no secret."""

import json

import pytest

from pipeline.stores.storage import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIAABCDEFGHIJKLMNOP:se/cret@bucket/x.tar", "s3://***@bucket/x.tar"),
        ("https://store/x.tar?sig=abc%2F&part=1", "https://store/x.tar?sig=***&part=1"),
        ("HTTP 403 for token=abc: denied", "HTTP 403 for token=*** denied"),
        ("http://127.0.0.1:8265/jobs?by=a@b.c", "http://127.0.0.1:8265/jobs?by=a@b.c"),
        ("s3://bucket/cats@night.tar", "s3://bucket/cats@night.tar"),
        ("password=hun\\ter2 is wrong", "password=*** is wrong"),
    ],
)
def test_redact_takes_the_secrets_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_redact_leaves_json_that_can_be_read() -> None:
    inner = json.dumps({"why": "password=hünx"})
    told = {"error": 'said "token=abc" and "s3://k:s@b"', "path": "s3://bucket/x.tar", "summary": inner}
    shown = json.loads(redact(json.dumps(told)))
    assert shown == {
        "error": 'said "token=***" and "s3://***@b"',
        "path": "s3://bucket/x.tar",
        "summary": '{"why": "password=***"}',
    }
