"""Options are validated once, with an error that says what was allowed."""

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import tyro

from jobs import embed_laion
from pipeline.config import Contract, EmbedConfig, Keep, ReadConfig, RunConfig, Tagging, WriteConfig
from pipeline.errors import ConfigError

READ = ReadConfig(("a.tar",))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ReadConfig, {"inputs": ()}, r"--input .* at least one file"),
        (ReadConfig, {"inputs": ("a",), "max_pixels": 0}, "--max-pixels 0 .* above 0"),
        (ReadConfig, {"inputs": ("a",), "slice_bytes": -1}, "slice_bytes -1"),
        (ReadConfig, {"inputs": ("a",), "keep": (Keep("a"), Keep("A"))}, "--keep 'a,a' .* each column once"),
        (EmbedConfig, {"batch_size": 0}, "--batch-size 0"),
        (EmbedConfig, {"compile": "maybe"}, "--compile 'maybe'"),
        (EmbedConfig, {"device": "tpu"}, "--device 'tpu' .* auto, gpu or cpu"),
        (EmbedConfig, {"dtype": "float16"}, "--dtype 'float16' .* auto, float32, bfloat16 or fp8"),
        (EmbedConfig, {"dtype": "fp8", "device": "cpu"}, "--dtype 'fp8' .* float32 or bfloat16 with --device cpu"),
        (EmbedConfig, {"num_gpus": 2}, "--num-gpus 2 .* from 0 to 1"),
        (EmbedConfig, {"num_gpus": float("nan")}, "--num-gpus nan"),
        (EmbedConfig, {"num_gpus": -0.5}, "--num-gpus -0.5"),
        (EmbedConfig, {"actors": 0}, "--actors 0"),
        (Tagging, {"count": 0}, "--tags 0 .* 1 to 50"),
        (Tagging, {"count": 51}, "--tags 51"),
        (Tagging, {"count": 1, "prompt": "a cat"}, "--tag-prompt 'a cat' .* with <mask> in it, once"),
        (Tagging, {"count": 1, "prompt": "<mask> <mask>"}, "--tag-prompt '<mask> <mask>'"),
        (WriteConfig, {"db": "d", "table": "1st"}, "--table '1st' .* a letter, then"),
        (WriteConfig, {"db": "d", "table": "a/b"}, "--table 'a/b'"),
        (WriteConfig, {"db": "d", "table": "laion_rejects"}, "--table 'laion_rejects' .* does not end in _rejects"),
        (WriteConfig, {"db": "d", "vectors": ()}, "--vectors '' .* some of image, text, cross"),
        (WriteConfig, {"db": "d", "vectors": ("image", "sound")}, "--vectors 'image,sound'"),
        (WriteConfig, {"db": "d", "vectors": ("image", "image")}, "--vectors 'image,image' .* each once"),
        (WriteConfig, {"db": "d", "storage": "bfloat16"}, "--storage 'bfloat16' .* float16 or float32"),
        (WriteConfig, {"db": "d", "commit_seconds": -1}, "commit_seconds -1"),
        (WriteConfig, {"db": "d", "commit_rows": 0}, "commit_rows 0"),
        (WriteConfig, {"db": "d", "fragment_rows": 0}, "fragment_rows 0 .* above 0"),
    ],
)
def test_config_refuses_a_bad_value_and_says_what_is_allowed(
    kind: type[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        kind(**options)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("similarity", Keep("similarity")),
        ("punsafe:float32", Keep("punsafe", "float32")),
        ("flag:", Keep("flag")),
    ],
)
def test_keep_parses_a_name_with_or_without_a_type(text: str, keep: Keep) -> None:
    assert Keep.parse(text) == keep


@pytest.mark.parametrize("text", ["", "a b", ":int64", "a:decimal", "9a"])
def test_keep_refuses_what_is_no_name_or_no_type(text: str) -> None:
    with pytest.raises(ConfigError, match="--keep"):
        Keep.parse(text)


def test_config_edges_that_are_allowed() -> None:
    assert EmbedConfig(num_gpus=0).num_gpus == 0
    assert EmbedConfig(num_gpus=1).num_gpus == 1
    assert WriteConfig("d", commit_seconds=0, fragment_rows=1).table == "laion"


def test_few_rows_wait_longer_for_a_commit_than_many() -> None:
    write = WriteConfig("d")
    assert (write.commit_after(9_999), write.commit_after(10_000)) == (30, 10)
    assert WriteConfig("d", commit_seconds=0).commit_after(0) == 0


@pytest.mark.parametrize("name", ["tags", "Tag_Probabilities"])
def test_config_refuses_to_keep_what_the_tags_fill(name: str) -> None:
    read, write = ReadConfig(("a.tar",), keep=(Keep(name),)), WriteConfig("d")
    assert RunConfig(read, write).embed.tags is None
    with pytest.raises(ConfigError, match=f"--keep '{name}' .* any other column beside --tags"):
        RunConfig(read, write, EmbedConfig(tags=Tagging(1)))


def test_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        READ.max_pixels = 1  # type: ignore[misc]


def test_dataset_is_the_tables_name_unless_told_otherwise() -> None:
    assert WriteConfig("d", "cats").dataset_name == "cats"
    assert WriteConfig("d", "cats", dataset="dogs").dataset_name == "dogs"


def test_run_config_is_recorded_whole() -> None:
    config = RunConfig(READ, WriteConfig("s3://b/lake"), EmbedConfig(batch_size=3))
    recorded = json.loads(config.to_json())
    assert (recorded["read"]["inputs"], recorded["write"]["db"]) == (["a.tar"], "s3://b/lake")
    assert recorded["embed"]["batch_size"] == 3


def test_contract_compares_by_value() -> None:
    assert Contract("w", "c", "r", "p", 4) == Contract("w", "c", "r", "p", 4) != Contract("v", "c", "r", "p", 4)


@pytest.mark.parametrize(("given", "on"), [([], False), (["--jpeg-draft"], True)])
def test_jpeg_draft_is_off_unless_asked_for_and_is_recorded(
    given: list[str], on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[RunConfig] = []
    monkeypatch.setattr(embed_laion.Lake, "run", lambda lake, config, log: runs.append(config))
    monkeypatch.setattr(embed_laion, "report", lambda *told: 0)
    options = tyro.cli(embed_laion.Options, args=["--input", "a.tar", "--db", "d", *given])
    assert embed_laion.main(options) == 0
    assert json.loads(runs[0].to_json())["read"]["jpeg_draft"] is on
