"""Evaluations of small tables and shards, against all scores computed at once, and what is refused."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest

from pipeline import evaluate as evaluations
from pipeline.config import Contract, ReadConfig
from pipeline.database import Database
from pipeline.errors import BridgelakeError, ConfigError, ContractError, FetchError, InputError, TableError
from pipeline.evaluate import Evaluation, EvaluationModel, Report, evaluate
from pipeline.evaluation import matching, pairs
from tests.lakes import CONTRACT, FakeEncoder, FakeLake, captioned, decoded, image_vector, jpeg, text_vector
from tests.moulds import Moulds
from tests.shards import Squares, members, write_tar


def margin_of(square: np.ndarray, words: str) -> float:
    return (int(square.astype(int).sum()) * 31 + zlib.crc32(words.encode())) % 9973 / 100


@dataclass
class Encoder(FakeEncoder):
    """Remembers how many pictures it looked at."""

    looked: int = 0

    def margins(
        self, pixels: np.ndarray, texts: Sequence[str], text_of: np.ndarray, image_of: np.ndarray
    ) -> np.ndarray:
        self.looked += len(pixels)
        return np.array([margin_of(pixels[i], texts[t]) for t, i in zip(text_of, image_of, strict=True)], np.float32)


@dataclass
class Evaluated:
    """A lake and the model that is evaluated on it."""

    lake: FakeLake
    encoder: Encoder

    def __call__(self, contract: Contract = CONTRACT, **asked: Any) -> Report:
        model = EvaluationModel(contract, Squares, lambda: self.encoder)
        return evaluate(self.lake.database, Evaluation(**asked), model)

    def by_hand(self, rows: list[dict[str, Any]], top: int, wide: bool = False) -> tuple[list[float], list[float]]:
        """Recall in percent by all scores at once: ITC, and after the rerank."""
        names = list(dict.fromkeys(row["sha256"] for row in rows))
        of = np.array([names.index(row["sha256"]) for row in rows])
        first = {row["sha256"]: row for row in reversed(rows)}
        stored = np.float32 if wide else np.float16
        images = np.stack([np.asarray(first[n]["image_embedding"], stored) for n in names]).astype(float)
        texts = np.stack([np.asarray(row["text_embedding"], stored) for row in rows]).astype(float)
        images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
        squares = [Squares().picture(decoded(jpeg(int(first[n]["caption"].split()[1])))) for n in names]
        margins = np.array([[margin_of(square, row["caption"]) for square in squares] for row in rows])
        scores = texts @ images.T
        relevant = of[:, None] == np.arange(len(names))
        itc, itm = [], []
        for s, m, r in ((scores, margins, relevant), (scores.T, margins.T, relevant.T)):
            order = np.argsort(-s, axis=1)
            head = np.take_along_axis(order[:, :top], np.argsort(-np.take_along_axis(m, order[:, :top], 1), axis=1), 1)
            for recalls, ranked in ((itc, order), (itm, np.concatenate([head, order[:, top:]], axis=1))):
                hits = np.take_along_axis(r, ranked, axis=1)
                recalls += [100 * hits[:, :k].any(axis=1).mean() for k in (1, 5, 10)]
        return itc, itm


def sixty(folder: Path) -> Evaluated:
    """40 pictures with one caption each and 20 with three, in three shards; one of them stands in two shards."""
    lake = FakeLake(folder)
    lake.add("00000.tar", captioned(20))
    lake.add("00001.tar", [*captioned(20, start=20), (jpeg(3), ["caption 3 again"])])
    lake.add("00002.tar", captioned(20, start=40, captions=3))
    return Evaluated(lake.write(), Encoder())


@pytest.fixture
def evaluated(moulds: Moulds) -> Evaluated:
    return moulds.cast(sixty)


def figures(report: Report) -> tuple[list[float], list[float]]:
    assert report.itm
    return [*report.itc.ir, *report.itc.tr], [*report.itm.ir, *report.itm.tr]


@pytest.mark.parametrize("top", [1, 7, 15, 1000])
def test_table_is_evaluated_as_by_hand_before_and_after_the_rerank(evaluated: Evaluated, top: int) -> None:
    report = evaluated(rerank_top=top)
    itc, itm = evaluated.by_hand(evaluated.lake.rows, top)
    np.testing.assert_allclose(figures(report), (itc, itm))
    assert (report.pictures, report.pairs, report.shared) == (60, 101, 0)
    assert itm != itc or top == 1


def test_pictures_are_looked_at_once_each(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_AT_ONCE", 7)
    report = evaluated(rerank_top=5)
    assert evaluated.encoder.looked == 60
    np.testing.assert_allclose(figures(report), evaluated.by_hand(evaluated.lake.rows, 5))


def test_without_a_rerank_no_picture_is_looked_at(evaluated: Evaluated) -> None:
    report = evaluated(rerank_top=0)
    assert (report.itm, evaluated.encoder.looked, evaluated.encoder.texts) == (None, 0, [])
    np.testing.assert_allclose([*report.itc.ir, *report.itc.tr], evaluated.by_hand(evaluated.lake.rows, 1)[0])


def test_where_chooses_the_pairs_also_when_it_ends_in_a_comment(evaluated: Evaluated) -> None:
    wide = [row for row in evaluated.lake.rows if row["width"] >= 64]
    report = evaluated(where="width >= 64 -- the wide ones", rerank_top=5)
    np.testing.assert_allclose(figures(report), evaluated.by_hand(wide, 5))
    assert "where width >= 64" in report.lines()[0]
    limited = evaluated(where="width >= 64 -- the wide ones", limit=9, rerank_top=0)
    assert limited.pictures == 9


def test_limit_chooses_pictures_with_all_their_captions_always_the_same(evaluated: Evaluated) -> None:
    chosen = sorted({row["sha256"] for row in evaluated.lake.rows})[:25]
    rows = [row for row in evaluated.lake.rows if row["sha256"] in chosen]
    report = evaluated(limit=25, rerank_top=5)
    assert (report.pictures, report.pairs) == (25, len(rows))
    np.testing.assert_allclose(figures(report), evaluated.by_hand(rows, 5))
    assert evaluated(limit=1000, rerank_top=0).pictures == 60


def test_limit_holds_few_names_whatever_the_table(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = evaluated(limit=10, rerank_top=0)
    monkeypatch.setattr(pairs, "_ROWS", 2)
    assert evaluated(limit=10, rerank_top=0).to_json() | {"seconds": 0} == wanted.to_json() | {"seconds": 0}


def test_shards_are_evaluated_without_a_table_as_a_table_of_them_is(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    write_tar(folder / "00000.tar", [*members(20), ("99999.jpg", b"<html>404</html>"), ("99999.txt", b"lost")])
    write_tar(folder / "00001.tar", members(20, start=20))
    evaluated = Evaluated(FakeLake(tmp_path / "none"), Encoder())
    report = evaluated(read=ReadConfig((str(folder),)), rerank_top=6)
    rows = []
    for i in range(40):
        square = Squares().picture(decoded(members(1, start=i)[0][1]))
        row = {"sha256": str(i), "caption": f"caption {i}", "image_embedding": image_vector(square)}
        rows.append(row | {"text_embedding": text_vector(f"caption {i}")})
    itc, _ = evaluated.by_hand(rows, 6, wide=True)
    assert (report.pictures, report.pairs, report.rejects) == (40, 40, {"undecodable": 1})
    np.testing.assert_allclose(figures(report)[0], itc)
    assert "undecodable 1" in report.lines()[-1]
    assert evaluated.encoder.looked == 40
    assert evaluated(read=ReadConfig((str(folder),)), rerank_top=0, limit=25).pictures == 25
    assert not (tmp_path / "none").exists()


def test_captions_of_several_pictures_are_counted(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", [(jpeg(0), ["a cat"]), (jpeg(1), ["a cat", "a dog"]), (jpeg(2), ["a bird", "a bird"])])
    report = Evaluated(lake.write(), Encoder())(rerank_top=0)
    assert report.shared == 2
    assert "2 captions stand with several pictures" in "\n".join(report.lines())


def test_report_is_a_table_for_people_and_numbers_for_machines(evaluated: Evaluated) -> None:
    report = evaluated(rerank_top=5)
    head, names, itc, itm, *_ = report.lines()
    assert "60 pictures, 101 captions (1.68 a picture), fake" in head
    assert names.split() == ["IR@1", "IR@5", "IR@10", "TR@1", "TR@5", "TR@10", "RSUM"]
    assert itc.split()[:2] == ["ITC", f"{report.itc.ir[0]:.2f}"]
    assert itm.startswith("ITM rerank of the top 5 ")
    told = report.to_json()
    assert told["itc"]["RSUM"] == pytest.approx(sum(figures(report)[0]))
    assert told["itm"]["TR@10"] == report.itm.tr[2]
    assert (told["pictures"], told["pairs"], told["rerank_top"]) == (60, 101, 5)


def test_older_version_is_evaluated_by_its_number(evaluated: Evaluated) -> None:
    first = lance.dataset(evaluated.lake.database.path(), version=1).count_rows()
    assert evaluated(version=1, rerank_top=0).pairs == first < 101


def test_picture_that_cannot_be_fetched_ends_the_evaluation(evaluated: Evaluated) -> None:
    (evaluated.lake.folder / "laion" / "00001.tar").unlink()
    with pytest.raises(FetchError, match=r"00001.tar cannot be fetched: .* with --rerank-top 0"):
        evaluated(rerank_top=5)
    assert evaluated(rerank_top=0).pictures == 60


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"where": "width > 10000"}, InputError, "no row meets --where 'width > 10000'"),
        ({"where": "nope > 3"}, ConfigError, "there is no column nope"),
        ({"limit": 0}, ConfigError, "--limit 0"),
        ({"rerank_top": -1}, ConfigError, "--rerank-top -1"),
        ({"version": 99}, TableError, "no version 99"),
        ({"read": ReadConfig(("/nowhere",)), "where": "width > 3"}, ConfigError, "--where and --version"),
        ({"read": ReadConfig(("/nowhere",))}, InputError, "no such file or folder: /nowhere"),
        ({"contract": Contract("x" * 8, "other", "main", "4x4", 8)}, ContractError, "another model"),
    ],
)
def test_refused_in_one_clear_line(
    evaluated: Evaluated, asked: dict[str, Any], error: type[BridgelakeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        evaluated(**asked)
    assert (evaluated.encoder.texts, evaluated.encoder.looked) == ([], 0)


def test_table_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    evaluated = Evaluated(FakeLake(tmp_path), Encoder())
    with pytest.raises(TableError, match="there is no table laion in"):
        evaluated()
    evaluated.lake.add("00000.tar", captioned(3))
    evaluated.lake.write()
    lance.dataset(evaluated.lake.database.path()).delete("true")
    with pytest.raises(InputError, match="it holds no rows yet"):
        evaluated()


def test_table_without_text_vectors_is_refused(tmp_path: Path) -> None:
    lake = FakeLake(tmp_path)
    lake.add("00000.tar", captioned(3))
    with pytest.raises(TableError, match=r"holds no text_embedding, .* --input"):
        Evaluated(lake.write(vectors=("image",)), Encoder())()


def test_more_pairs_than_can_be_compared_are_refused_without_a_limit(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MOST", 100)
    with pytest.raises(ConfigError, match=r"101 pairs are too many .* --limit"):
        evaluated(rerank_top=0)
    assert evaluated(rerank_top=0, limit=60).pairs == 101


def test_shard_that_is_cut_short_ends_the_evaluation(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "00000.tar", members(20))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"00000.tar: cut short.* every shard whole"):
        Evaluated(FakeLake(tmp_path), Encoder())(read=ReadConfig((str(path),)))


def test_progress_is_told_now_and_then(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "_EVERY", 0.0)
    told: list[str] = []
    model = EvaluationModel(CONTRACT, Squares, lambda: evaluated.encoder)
    evaluate(Database(evaluated.lake.database.uri, "laion"), Evaluation(), model, told.append)
    assert told == ["60 pictures, 101 captions", "looked at 60 of 60 pictures"]
