"""In which AWS regions buckets and machines are; silence where that cannot be told at once."""

import re
from collections.abc import Iterable

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import InstanceMetadataRegionFetcher

_SECONDS = 1.0  # for each question
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")  # other stores that speak S3 have names of their own, or none


def region_of_bucket(uri: str) -> str | None:
    """Where the bucket of an s3 URL is."""
    scheme, _, path = uri.partition("://")
    if scheme not in ("s3", "s3a"):
        return None
    session = botocore.session.get_session()
    limits = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 1})
    try:
        client = session.create_client(
            "s3", region_name=session.get_config_variable("region") or "us-east-1", config=limits
        )
        headers = client.head_bucket(Bucket=path.partition("/")[0])["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:  # refused, and told all the same
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    except BotoCoreError:
        return None
    return _known(headers.get("x-amz-bucket-region"))


def region_here() -> str | None:
    """Where this machine is, as EC2's instance metadata tells it."""
    fetcher = InstanceMetadataRegionFetcher(
        timeout=_SECONDS,
        num_attempts=1,
        config={
            name: botocore.session.get_session().get_config_variable(name)
            for name in ("ec2_metadata_service_endpoint", "ec2_metadata_service_endpoint_mode")
        },
    )
    try:
        return _known(fetcher.retrieve_region())
    except (BotoCoreError, OSError, ValueError):
        return None


def elsewhere(uris: Iterable[str], machines: Iterable[str]) -> dict[str, str]:
    """Bucket -> its region, of those that are in none of the machines' regions."""
    here = set(machines)
    if not here:
        return {}
    one_each = {uri.partition("://")[2].partition("/")[0]: uri for uri in uris}
    found = {bucket: region_of_bucket(uri) for bucket, uri in one_each.items()}
    return {bucket: region for bucket, region in found.items() if region and region not in here}


def _known(region: str | None) -> str | None:
    return region if region and _REGION.fullmatch(region) else None
