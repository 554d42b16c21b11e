"""Which checkpoint: folders and URLs resolved without torch, fetched whole or not at all."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.errors import HFValidationError

import model
from model import ModelError, ModelSpec, source
from model.prepare import Preparer
from model.spec import hash_weights

HEAVY = ("torch", "transformers", "ray", "lance", "lancedb")
LOADED = f"import sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_head_nodes_rooms_need_no_torch_to_prepare_captions_and_tell_operations(checkpoint: Path) -> None:
    code = (
        f"import model, model.spec, model.prepare; s = model.resolve({str(checkpoint)!r}); "
        "s.preparer().captions(['cats']); print(0 < s.operations(20, 5) < s.operations(20, 1))"
    )
    assert run(f"{code}; {LOADED}") == "True\n[]"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "bridgelake" / "models"


def test_resolve_of_a_folder_gives_everything_a_worker_needs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    spec = model.resolve(checkpoint.name)
    assert spec == ModelSpec(
        source=str(checkpoint),  # absolute: a worker stands elsewhere
        revision="",
        weights=hash_weights(checkpoint),
        preprocessing=Preparer.from_folder(checkpoint).fingerprint,
        dimension=48,
    )
    assert spec.fetch() == checkpoint
    assert len(spec.weights) == 64


def test_spec_tells_the_operations_of_a_prompt(checkpoint: Path) -> None:
    spec = model.resolve(str(checkpoint))
    assert spec.operations(20, 1) < spec.operations(20, 1, prompt=7) < 2 * spec.operations(20, 1)


def test_hash_follows_the_weights_and_nothing_else(copied: Path) -> None:
    before = hash_weights(copied)
    (copied / "README.md").write_text("words")
    (copied / "training_args.bin").write_bytes(b"not weights")
    assert hash_weights(copied) == before
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert hash_weights(copied) != before


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors", "optimizer.bin"],
         ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "adapter.safetensors"], ["pytorch_model.bin"]),
        (["config.json"], []),
    ],
)  # fmt: skip
def test_choose_weights_takes_the_first_kind_that_is_there(names: list[str], chosen: list[str]) -> None:
    assert source.choose_weights(names) == chosen


def test_resolve_refuses_what_is_no_checkpoint(copied: Path) -> None:
    for broken, says in (
        (copied.parent / "nowhere", "is not a folder: give a checkpoint folder, an fsspec URL, or a hub id"),
        (copied.parent, r"has no config\.json"),
    ):
        with pytest.raises(ModelError, match=says):
            model.resolve(str(broken))
    with pytest.raises(ModelError, match="--revision main goes with a hub id"):
        model.resolve(str(copied), revision="main")
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no weights: wanted model\*\.safetensors or pytorch_model\*\.bin"):
        model.resolve(str(copied))
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        model.resolve(str(copied))


def test_fetch_refuses_weights_that_changed_and_shows_both(copied: Path) -> None:
    spec = model.resolve(str(copied))
    (copied / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match=f"the run began with {spec.weights[:12]}"):
        spec.fetch()


def test_a_folder_with_the_form_of_a_hub_id_is_a_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert not source.is_hub_id("owner/name")
    assert source.is_hub_id("owner/other")
    assert not any(source.is_hub_id(text) for text in ("name", "./a/b", "../b", "s3://a/b", "a/b/c", "/a/b", ""))


@pytest.fixture
def stored(checkpoint: Path) -> Iterator[str]:
    """The checkpoint in fsspec's memory, among files that are none of ours."""
    fs = fsspec.filesystem("memory")
    for path in checkpoint.iterdir():
        fs.pipe_file(f"/bucket/model/{path.name}", path.read_bytes())
    fs.pipe_file("/bucket/model/pytorch_model.bin", b"second kind")
    fs.pipe_file("/bucket/model/runs/events.json", b"nested")
    yield "memory://bucket/model"
    fs.rm("/bucket", recursive=True)


def test_url_is_fetched_once_and_only_what_is_needed(
    stored: str, checkpoint: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = model.resolve(stored)
    assert (spec.source, spec.weights) == (stored, hash_weights(checkpoint))
    folder = spec.fetch()
    assert folder.parent == cache
    assert {p.name for p in folder.iterdir()} == {p.name for p in checkpoint.iterdir()}
    assert capsys.readouterr().err == f"fetching {stored}\n"


def test_preparer_of_a_url_does_not_fetch_the_weights(stored: str, cache: Path) -> None:
    spec = model.resolve(stored)
    shutil.rmtree(cache)
    assert spec.preparer().captions(["cats"])
    assert list(cache.rglob("*.json"))
    assert not list(cache.rglob("*.safetensors"))


def test_preparer_is_refused_when_it_changed_since_resolve(copied: Path) -> None:
    spec = model.resolve(str(copied))
    path = copied / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"resample": 3', '"resample": 2'))
    with pytest.raises(ModelError, match=r"resample 2.*the run began with.*resample 3"):
        spec.preparer()


def test_url_whose_weights_changed_is_refused_by_a_later_fetch(stored: str) -> None:
    spec = model.resolve(stored)
    fsspec.filesystem("memory").pipe_file("/bucket/model/model.safetensors", b"other weights")
    with pytest.raises(ModelError, match="the run began with"):
        spec.fetch()


class Flaky(LocalFileSystem):
    """A store whose transfers fail as `how` says."""

    protocol = ("flaky",)
    cachable = False
    how: Callable[[str, Path], None] | None = None

    def get_file(self, rpath: str, lpath: str, **kwargs: object) -> None:
        super().get_file(rpath, lpath)
        if Flaky.how is not None and rpath.endswith(".safetensors"):
            Flaky.how(rpath, Path(lpath))


def _cut(_: str, path: Path) -> None:
    os.truncate(path, 1000)


def _broken(_: str, path: Path) -> None:
    _cut(_, path)
    raise TimeoutError("the line went dead\nat byte 1000")


@pytest.mark.parametrize(("how", "says"), [(_cut, "came cut, 1000 of"), (_broken, "cannot be fetched .the line went")])
def test_url_cut_on_the_way_leaves_nothing_that_is_trusted(
    how: Callable[[str, Path], None], says: str, copied: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    url = f"flaky://{copied}"
    monkeypatch.setattr(Flaky, "how", staticmethod(how))
    with pytest.raises(ModelError, match=says) as failed:
        model.resolve(url)
    assert "\n" not in str(failed.value)
    assert all(p.suffix in (".part", ".lock") for p in cache.iterdir())

    monkeypatch.setattr(Flaky, "how", None)
    assert model.resolve(url).weights == hash_weights(copied)
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://bucket/empty", "cannot be listed|has no config"),
        ("nosuch://bucket/model", "cannot be listed .*nosuch"),
        ("file:///nowhere/at/all", "cannot be listed"),
    ],
)
def test_url_that_holds_no_checkpoint_is_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as failed:
        model.resolve(url)
    assert "\n" not in str(failed.value)
    assert url in str(failed.value)


@pytest.mark.parametrize(
    "url", ["s3://AKIAKEY:hunter2@bucket/model", "https://user:hunter2@host/m", "https://host/m?sig=hunter2&x=1"]
)
def test_url_with_a_credential_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ModelError, match="carries a credential") as failed:
        model.resolve(url)
    assert not any(secret in str(failed.value) for secret in ("hunter2", "AKIAKEY", "user"))


def test_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SECONDS", 0.2)
    monkeypatch.setattr(source.HfApi, "model_info", lambda *_, **__: time.sleep(2))
    begun = time.monotonic()
    with pytest.raises(ModelError, match="--model a/b: no such folder here, and the hub cannot be reached"):
        model.resolve("a/b")
    assert time.monotonic() - begun < 1.5


def test_hub_id_that_is_not_valid_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HFValidationError("bad id")

    monkeypatch.setattr(source.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match="--model a/--b: no such folder here, and no such model on the hub"):
        model.resolve("a/--b")
