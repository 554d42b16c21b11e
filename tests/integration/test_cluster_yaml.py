"""cluster.yaml, as far as it can be tried without AWS: Ray's own checks, and its bootstrap and nodes in moto's AWS.

moto shows that AWS's API takes what is asked for, and what comes of it: network, key, profile, disks, spot. It boots
nothing, resolves no image, and knows no capacity; the install commands are run by tests/cluster/test_install.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.capacity import Group, worker_groups
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "cluster.yaml").read_text()
PICTURE = 294 * 294 * 3  # bytes, prepared for the large checkpoint


def written() -> dict[str, Any]:
    return dict(yaml.safe_load(TEXT))


def test_ray_finds_the_configuration_valid() -> None:
    validate_config(prepare_config(written()))


def test_a_key_that_ray_does_not_know_would_be_found() -> None:
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(prepare_config(written() | {"idle_minutes": 5}))


def test_both_groups_scale_from_zero_and_within_the_limit_of_all() -> None:
    config = written()
    kinds = config["available_node_types"]
    assert [kinds[name]["min_workers"] for name in ("cpu", "gpu")] == [0, 0]
    assert sum(kinds[name]["max_workers"] for name in ("cpu", "gpu")) == config["max_workers"]
    assert worker_groups(config) == (Group(8, 16, 1), Group(4, 32, 0))


def test_only_the_gpu_group_gets_torch() -> None:
    config = written()
    assert "[model]" in "".join(config["available_node_types"]["gpu"]["worker_setup_commands"])
    assert "[model]" not in "".join([*config["head_setup_commands"], *config["worker_setup_commands"]])
    for commands in ("head_setup_commands", "worker_setup_commands"):
        assert all("--constraint ~/bridgelake/requirements.lock" in c for c in config[commands])


def test_what_goes_to_the_nodes_is_there_and_holds_no_environment_or_lake() -> None:
    """The launcher reads every file of it at each `ray up`."""
    mounts = written()["file_mounts"]
    assert {there.removeprefix("~/bridgelake/") for there in mounts} == set(mounts.values())
    assert [here for here in mounts.values() if not (REPOSITORY / here).exists()] == []
    assert not set(mounts.values()) & {".", "demo", "tests"}


def test_nothing_secret_stands_in_the_file_and_credentials_come_by_profile() -> None:
    assert not re.search(r"AKIA|ASIA|secret_access|aws_credentials|password|token:", TEXT, re.IGNORECASE)
    for kind in written()["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]["Name"].startswith("bridgelake-")
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_the_dashboard_is_not_open_to_the_network() -> None:
    start = written()["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """moto's AWS, with the two instance profiles in it, and a home for the key pair."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    with mock_aws():
        iam = boto3.client("iam", "us-east-1")
        for name in ("bridgelake-head", "bridgelake-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield boto3.client("ec2", "us-east-1")


def test_bootstrap_and_nodes_in_motos_aws(aws: Any, tmp_path: Path) -> None:
    config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(written()))
    kinds = config["available_node_types"]
    # What we say of the instances is what AWS says of them: the autoscaler plans with it.
    offered = {
        one["InstanceType"]: one
        for one in aws.describe_instance_types(
            InstanceTypes=[kind["node_config"]["InstanceType"] for kind in kinds.values()]
        )["InstanceTypes"]
    }
    for name in ("cpu", "gpu"):
        instance = offered[kinds[name]["node_config"]["InstanceType"]]
        assert kinds[name]["resources"]["CPU"] == instance["VCpuInfo"]["DefaultVCpus"]
        gpus = sum(gpu["Count"] for gpu in instance.get("GpuInfo", {}).get("Gpus", ()))
        assert kinds[name]["resources"].get("GPU", 0) == gpus
        # The object store holds pictures for a while, and the disk what it spills, twice.
        store = 0.3 * instance["MemoryInfo"]["SizeInMiB"] * 2**20
        assert store / PICTURE > 100_000
        assert kinds[name]["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] * 1e9 > 2 * store
    assert kinds["head"]["resources"]["CPU"] == 0
    assert [group.kind for group in worker_groups(config)] == ["L40S", ""]  # so that --dry-run knows what may come

    ready = bootstrap_aws(config)
    assert (tmp_path / ".ssh" / "ray-autoscaler_us-east-1.pem").stat().st_mode & 0o077 == 0
    zones = {subnet["SubnetId"]: subnet["AvailabilityZone"] for subnet in aws.describe_subnets()["Subnets"]}
    image = aws.describe_images()["Images"][0]["ImageId"]  # moto resolves no parameter
    provider = AWSNodeProvider(ready["provider"], "bridgelake")
    for name, kind in ready["available_node_types"].items():
        node = kind["node_config"] | {"ImageId": image}
        assert {zones[subnet] for subnet in node["SubnetIds"]} == {"us-east-1a"}
        provider.create_node(node, {"ray-node-type": "worker", "ray-user-node-type": name}, 1)
    made = [instance for r in aws.describe_instances()["Reservations"] for instance in r["Instances"]]
    by_type = {instance["InstanceType"]: instance for instance in made}
    assert len(made) == len(by_type) == 3
    assert by_type["m7i.8xlarge"].get("InstanceLifecycle") == "spot"
    assert by_type["g6e.4xlarge"].get("InstanceLifecycle") is None
    profiles = {kind: instance["IamInstanceProfile"]["Arn"].rpartition("/")[2] for kind, instance in by_type.items()}
    assert profiles == {
        "m7i.xlarge": "bridgelake-head",
        "m7i.8xlarge": "bridgelake-worker",
        "g6e.4xlarge": "bridgelake-worker",
    }
    volumes = aws.describe_volumes()["Volumes"]
    assert sorted((volume["Size"], volume["Encrypted"]) for volume in volumes) == [(60, True), (120, True), (200, True)]
