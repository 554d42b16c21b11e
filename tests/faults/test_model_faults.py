"""A model that gives vectors that are not finite, runs out of memory, or loses its GPU; fakes, since there is none."""

from pathlib import Path

import pytest

from tests.faults.head import Head
from tests.faults.launch import Fault, waves
from tests.faults.proof import agree, counting_rejects, prove, rows
from tests.shards import members, write_tar

pytestmark = pytest.mark.faults

EMBED = "tests.faults.model:SmallEmbedder.embed"


def write(folder: Path, broken: dict[int, str], count: int = 200) -> Path:
    """One tar; the captions of some pairs have a word that breaks the model."""
    folder.mkdir()
    words = {f"{i:05d}.txt": f"caption {i} {word}".encode() for i, word in broken.items()}
    write_tar(folder / "a.tar", [(name, words.get(name, data)) for name, data in members(count)])
    return folder


def test_a_vector_that_is_finite_alone_in_float32_is_a_row_and_one_that_never_is_a_reject(
    head: Head, tmp_path: Path
) -> None:
    broken = dict.fromkeys(range(20), "FINITE_ALONE") | {70: "NEVER_FINITE", 90: "NEVER_FINITE"}
    done = head.embed(write(tmp_path / "a", broken), tmp_path / "lake")
    assert (done.code, done.summary["rows"], done.summary["rejects"]) == (0, 198, {"not_finite": 2}), done.said
    assert sorted(counting_rejects(tmp_path / "lake")["key"]) == ["00070", "00090"]
    agree(tmp_path / "lake")


def test_more_than_a_hundredth_fails_the_slice_and_a_healthy_model_mends_it(head: Head, tmp_path: Path) -> None:
    shards, mended = (
        write(tmp_path / n, dict.fromkeys(range(3), word)) for n, word in (("a", "NEVER_FINITE"), ("b", "FINITE_ALONE"))
    )
    done = head.embed(shards, tmp_path / "lake")
    assert (done.code, done.summary["rows"], list(done.summary["failures"])) == (1, 0, ["a.tar"]), done.said
    assert "3 of its 200 pairs" in done.said
    assert len(rows(tmp_path / "lake")) == 0
    (mended / "a.tar").replace(shards / "a.tar")
    assert head.embed(shards, tmp_path / "lake").code == 0
    assert head.embed(shards, tmp_path / "reference").code == 0
    prove(tmp_path / "lake", tmp_path / "reference")


def test_a_lost_gpu_costs_an_actor_and_nothing_else(head: Head, shards: Path, reference: Path, tmp_path: Path) -> None:
    says = "CUDA error: an illegal memory access was encountered"
    fault = Fault(EMBED, "raise", nth=23, error="pipeline.embed:DeviceLostError", says=says)
    head.place(*waves(), fault)
    done = head.embed(shards, tmp_path / "lake")
    assert head.happened(fault)
    assert done.code == 0, done.said
    prove(tmp_path / "lake", reference)


def test_a_node_that_loses_its_gpu_again_and_again_is_named(
    head: Head, shards: Path, reference: Path, tmp_path: Path
) -> None:
    says = "CUDA error: uncorrectable ECC error encountered"
    head.place(Fault(EMBED, "raise", nth=23, on=True, error="pipeline.embed:DeviceLostError", says=says))
    done = head.embed(shards, tmp_path / "lake")
    assert done.code == 1
    assert "error: node " in done.said
    assert "uncorrectable ECC error" in done.said
    head.place()
    assert head.embed(shards, tmp_path / "lake").code == 0
    prove(tmp_path / "lake", reference)
