"""Which region a bucket is in, asked of an S3 server."""

from typing import Any

from pipeline.forecasts.regions import elsewhere, region_of_bucket


def test_bucket_in_another_region_is_told(bucket: Any) -> None:
    name = bucket.name
    uri = f"s3://{name}/shards/a.tar"
    assert region_of_bucket(uri) == "us-east-1"
    assert elsewhere([uri, uri, "/a/folder"], ["eu-west-1"]) == {name: "us-east-1"}
    assert elsewhere([uri], ["eu-west-1", "us-east-1"]) == {}
    assert elsewhere([uri], []) == {}  # nobody knows where the nodes are
    assert region_of_bucket("gs://bucket/a.tar") is None
