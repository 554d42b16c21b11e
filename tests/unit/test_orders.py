"""What a person names to be taken down, line by line."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.upkeep.orders import Order, read_values

ID, SHA = "0123456789abcdef" * 2, "0123456789abcdef" * 4


def written(folder: Path, text: str | bytes) -> str:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_values_are_read_one_a_line_each_once(tmp_path: Path) -> None:
    path = written(tmp_path, f"\ufeff# asked by mail\n{ID}\r\n\n  {ID.upper()}  \n{'f' * 32}")
    assert read_values("id", path) == (ID, "f" * 32)
    assert read_values("sha256", written(tmp_path, f"{SHA}\n")) == (SHA,)


def test_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    urls = ("http://x/A?b='1'&c=%20#d", "http://x/a", "s3://bucket/é/日本.jpg")
    assert read_values("url", written(tmp_path, "\n".join(urls))) == urls


@pytest.mark.parametrize("column", ["id", "url", "sha256"])
def test_bad_lines_are_named_with_their_numbers(column: str, tmp_path: Path) -> None:
    path = written(tmp_path, "\n\nnothing good\n" + "x\n" * 6)
    with pytest.raises(ConfigError) as told:
        read_values(column, path)
    assert str(told.value).startswith(f"{path}: not a")
    assert "; line 3: 'nothing good', line 4: 'x'," in str(told.value)
    assert str(told.value).endswith("line 7: 'x' and 2 more")


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        read_values("url", written(tmp_path, b"http://x/1\nhttp://x/\xff\n"))


def test_a_list_of_a_hundred_thousand_lines_is_read(tmp_path: Path) -> None:
    many = [f"http://x/{i}" for i in range(100_000)]
    assert read_values("url", written(tmp_path, "\n".join(many))) == tuple(many)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone, or never there"):
        read_values("id", str(tmp_path / "no.txt"))


def test_an_order_holds_what_is_named_by_column() -> None:
    order = Order(ids=(ID.upper(),), urls=("http://x/1",), sha256=(SHA,))
    assert order.values == {"id": (ID,), "url": ("http://x/1",), "sha256": (SHA,)}
    assert order
    assert not Order(where=" ")


@pytest.mark.parametrize("named", [{"ids": ("1",)}, {"urls": ("no scheme",)}, {"sha256": (ID,)}])
def test_an_order_refuses_what_is_none(named: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ConfigError, match="number 1"):
        Order(**named)  # type: ignore[arg-type]
