"""`--submit`: what goes to the cluster, what is refused, and how small the upload is."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from bridgelake import DEFAULT_MODEL
from jobs import embed_laion, replay_rejects, schedule
from jobs.elsewhere import note_on, submitted, without_flag
from jobs.options import ComputeOptions
from pipeline import submit as room
from pipeline.errors import ClusterError, ConfigError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["--db", "s3://b/lake", "--submit", "http://h:8265", "--json"], ["--db", "s3://b/lake", "--json"]),
        (["--submit=http://h:8265", "--db", "s3://b/lake"], ["--db", "s3://b/lake"]),
        (["--db", "s3://b/lake"], ["--db", "s3://b/lake"]),
    ],
)
def test_the_command_is_the_same_less_submit(given: list[str], left: list[str]) -> None:
    assert without_flag(given) == left


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--input", "s3://bucket/laion/{000..127}.tar"),
        ("--input", "https://host/a.tar"),
        ("--db", "gs://bucket/lake"),
        ("--model", "BridgeTower/bridgetower-large-itm-mlm-itc"),
        ("--model", DEFAULT_MODEL),
    ],
)
def test_a_url_or_a_hub_id_means_the_same_on_the_cluster(option: str, value: str) -> None:
    assert note_on(option, value) == ""


def test_an_absolute_folder_is_let_through_with_a_word() -> None:
    assert note_on("--db", "/mnt/lake") == "--db /mnt/lake: on the cluster this must be a folder that all nodes share"
    assert "must be a folder that all nodes share" in note_on("--input", "file:///mnt/shards")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--input", "shards/*.tar"), ("--db", "lake"), ("--db", "../lake"), ("--model", "demo"), ("--input", "file://a")],
)
def test_a_relative_folder_is_refused(option: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError, match=rf"{option} .* is not valid with --submit: it is a folder of this machine"):
        note_on(option, value)


@pytest.mark.parametrize(
    "value",
    [
        "s3://AKIAABCDEFGHIJKLMNOP:verysecret@bucket/a",
        "https://host/a.tar?sv=1&key=verysecret",
        "https://account.blob.core.windows.net/laion/0.tar?sv=2026-02-06&sig=verysecret",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(ConfigError, match="holds a secret") as caught:
        note_on("--input", value)
    assert "verysecret" not in str(caught.value)


class Submitted:
    """In place of `pipeline.submit`: a job that has written its log at once."""

    name = "raysubmit_1"

    def __init__(self, log: str, code: int, left: BaseException | None = None) -> None:
        self.log, self.code, self.left = log, code, left
        self.commands: list[Sequence[str]] = []

    def submit(self, address: str, command: Sequence[str]) -> "Submitted":
        self.commands.append(command)
        return self

    def attend(self, show: room.Show, ask: object) -> int:
        for piece in (self.log[:7], self.log[7:]):
            show(piece)
        if self.left:
            raise self.left
        return self.code


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    job = Submitted('rows 3\n{"rows": 3}\nlast words\n', 1)
    monkeypatch.setattr(room, "submit", job.submit)
    return job


def test_embedding_job_submits_its_own_command_and_ends_as_it_ends(
    run: Submitted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(REPOSITORY / "jobs" / "embed_laion.py")
    given = ["--input", "s3://b/a b.tar", "--db", "s3://b/lake"]
    monkeypatch.setattr("sys.argv", [script, *given, "--submit", "http://head:8265", "--json"])
    options = embed_laion.Options(("s3://b/a b.tar",), "s3://b/lake", compute=ComputeOptions(submit="http://head:8265"))
    assert embed_laion.main(options) == 1
    assert run.commands == [["python", "jobs/embed_laion.py", *given, "--json"]]
    out, err = capsys.readouterr()
    assert out == ""
    assert "job raysubmit_1 at http://head:8265\nrows 3\n" in err


def test_submitted_prints_the_object_of_the_job_on_standard_output(
    run: Submitted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(REPOSITORY / "jobs" / "replay_rejects.py")])
    options = replay_rejects.Options("s3://b/lake", compute=ComputeOptions(submit="http://head:8265"), json=True)
    assert replay_rejects.main(options) == 1
    assert capsys.readouterr().out == '{"rows": 3}\n'


def test_submitted_takes_no_event_for_the_object_of_the_job_and_speaks_in_events_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    event = '{"event": "run_ended", "time": "2026-11-21T23:00:00Z", "level": "error", "run": "r1"}\n'
    monkeypatch.setattr(room, "submit", Submitted(f"starting\n{event}", 1).submit)
    monkeypatch.setattr("sys.argv", [str(REPOSITORY / "jobs" / "replay_rejects.py"), "--log-json"])
    compute = ComputeOptions(submit="http://head:8265", log_json=True)
    assert replay_rejects.main(replay_rejects.Options("/lake", compute=compute, json=True)) == 1
    out, err = capsys.readouterr()
    note, job, rest = err.split("\n", 2)
    assert (out, rest) == ("", f"starting\n{event}")
    assert "must be a folder that all nodes share" in json.loads(note)["message"]
    assert json.loads(job)["message"] == "job raysubmit_1 at http://head:8265"


def test_replay_refuses_a_relative_database_too(run: Submitted) -> None:
    with pytest.raises(ConfigError, match="--db 'lake' is not valid with --submit"):
        replay_rejects.main(replay_rejects.Options("lake", compute=ComputeOptions(submit="http://head:8265")))
    assert run.commands == []


SCHEDULED = ("python", "jobs/embed_laion.py", "--input", "s3://b/laion", "--db=s3://b/lake")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--input", "https://host/a.tar?sv=1&sig=verysecret"),
            r"--input https://host/a.tar\?sv=1&sig=\*\*\* holds a secret",
        ),
        (("--input=https://me:verysecret@host/a.tar",), "holds a secret"),
        (("--tag-prompt", "https://me:verysecret@host"), "--tag-prompt .* holds a secret"),
        (("AWS_SECRET_ACCESS_KEY=verysecret",), "the command: .* holds a secret"),
        (("--db", "lake"), "--db 'lake' is not valid with --submit: it is a folder of this machine"),
        (("--source_root=shards",), "--source-root 'shards' is not valid with --submit"),
        (("--model", "demo"), "--model 'demo' is not valid with --submit"),
    ],
)
def test_schedule_is_refused_as_its_command_would_be(
    more: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("pipeline.ticks.on_ray.submit", lambda *job: pytest.fail(f"submitted {job}"))
    options = schedule.Options(command=SCHEDULED + more, once=True, submit="http://head:8265")
    with pytest.raises(ConfigError, match=said) as caught:
        schedule.main(options)
    assert caught.value.exit_code == 2
    assert "verysecret" not in str(caught.value)


def test_schedule_submits_its_command_and_says_which_folders_all_nodes_must_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[Sequence[str]] = []

    def submit(address: str, command: Sequence[str]) -> None:
        commands.append(command)
        raise ClusterError("enough")

    monkeypatch.setattr("pipeline.ticks.on_ray.submit", submit)
    command = (*SCHEDULED[:-1], f"--db={tmp_path}/lake", "--caption-key=caption")  # what is after = holds no secret
    with pytest.raises(ClusterError, match="enough"):
        schedule.main(schedule.Options(command=command, once=True, submit="http://head:8265"))
    assert commands[0][-len(command) :] == list(command)
    assert f"--db {tmp_path}/lake: on the cluster this must be a folder that all nodes share" in capsys.readouterr().err


@pytest.mark.parametrize("left", [KeyboardInterrupt(), SystemExit(143)])
def test_leaving_says_how_to_come_back(
    left: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "submit", Submitted("a\n", 0, left).submit)
    monkeypatch.setattr("sys.argv", [str(REPOSITORY / "jobs" / "embed_laion.py")])
    try:
        code = submitted("http://head:8265", {}, False)
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == (130 if isinstance(left, KeyboardInterrupt) else 143)
    assert "job raysubmit_1 goes on; `ray job logs --follow raysubmit_1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What Ray sends along, of a repository in which somebody has worked."""
    copy = tmp_path_factory.mktemp("clone")
    for path in ("lake/laion.lance/data/x.lance", ".venv/lib/torch.so", "demo/out/lake/x", "shards/00000.tar", ".env"):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes(b"x" * 1000)
    for name in (".rayignore", ".gitignore", "bridgelake", "jobs", "model", "pipeline", "tests", "bench", "README.md"):
        (copy / name).symlink_to(REPOSITORY / name)
    for path in (REPOSITORY / "demo").iterdir():
        if path.name not in ("out", "shards"):
            (copy / "demo" / path.name).symlink_to(path)
    package = copy.parent / "package.zip"
    create_package(str(copy), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return zipfile.ZipFile(package)


def test_upload_is_small(upload: zipfile.ZipFile) -> None:
    assert Path(str(upload.filename)).stat().st_size < 8 * 2**20


def test_upload_is_what_a_job_runs_and_nothing_else(upload: zipfile.ZipFile) -> None:
    names = [name for name in upload.namelist() if not name.endswith("/")]
    assert {name.partition("/")[0] for name in names} == {"bridgelake", "demo", "jobs", "model", "pipeline"}
    assert {"demo/checkpoint/model.safetensors", "demo/draw.py", "pipeline/retrieval/sheet.html"} <= set(names)
    assert not [n for n in names if "__pycache__" in n or n.startswith(("demo/out", "demo/shards"))]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_every_job_can_be_run_by_its_name(path: Path) -> None:
    """`ray job submit jobs/x.py` hands the name to a shell."""
    text = path.read_text()
    if "__main__" in text:
        assert text.startswith("#!/usr/bin/env python\n")
        assert path.stat().st_mode & 0o111 == 0o111
