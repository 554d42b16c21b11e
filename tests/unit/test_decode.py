"""Bytes -> the RGB picture that a person would see, or the reason why there is none."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.decode import DecodedImage, Rejected, decode
from pipeline.errors import RejectReason
from tests.shards import encoded, picture

LIMIT = 100_000_000
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def rgb(image: bytes, limit: int = LIMIT) -> np.ndarray:
    return np.asarray(decode(image, limit).picture)


def reason(image: bytes, limit: int = LIMIT) -> RejectReason:
    with pytest.raises(Rejected) as caught:
        decode(image, limit)
    assert caught.value.detail
    return caught.value.reason


def drafted(image: bytes, height: int, width: int) -> DecodedImage:
    """As before a resize to this size."""
    return decode(image, LIMIT, lambda h, w: (height, width))


def gradient(mode: str = "L", size: tuple[int, int] = (16, 8)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert(mode)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_gives_contiguous_rgb_of_every_format(kind: str) -> None:
    found = rgb(picture(1, (24, 12), kind))
    assert found.shape == (12, 24, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    ("size", "wanted", "becomes"),
    [
        ((256, 512), (32, 64), (32, 64)),  # as large as what is wanted is large enough
        ((255, 512), (32, 64), (64, 128)),  # one side alone would be smaller
        ((257, 511), (32, 64), (65, 128)),
        ((100, 100), (50, 10), (50, 50)),
        ((99, 100), (50, 10), (99, 100)),
        ((40, 30), (64, 64), (40, 30)),
        ((40, 3000), (0, 128), (40, 3000)),  # is rejected for its shape
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_draft_is_the_smallest_scale_that_leaves_what_is_wanted(
    size: tuple[int, int], wanted: tuple[int, int], becomes: tuple[int, int], mode: str, progressive: bool
) -> None:
    data = encoded(gradient(mode, size[::-1]), "JPEG", progressive=progressive)
    found = drafted(data, *wanted)
    small = np.asarray(found.picture)
    assert (small.shape, found.size) == ((*becomes, 3), size)
    whole = Image.fromarray(rgb(data)).resize(becomes[::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(whole).astype(int) - small).mean() < 2
    assert all(side - 1 < part <= side for side, part in zip(becomes, found.extent, strict=True))
    assert (small.shape == (*size, 3)) == np.array_equal(rgb(data), small)


def test_draft_is_left_out_where_the_resize_would_come_to_another_size() -> None:
    data = encoded(gradient("RGB", (201, 100)), "JPEG")
    assert drafted(data, 9, 20).picture.size == (26, 13)
    assert decode(data, LIMIT, lambda h, w: (h * 20 // w, 20)).picture.size == (51, 25)  # 13 x 26 would become 10 x 20


@pytest.mark.parametrize(("orientation", "becomes"), [(None, (64, 128)), (3, (64, 128)), (6, (64, 32)), (8, (64, 32))])
def test_draft_wants_the_size_of_the_picture_as_seen(orientation: int | None, becomes: tuple[int, int]) -> None:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    data = encoded(gradient("RGB", (256, 128)), "JPEG", exif=exif)
    found = drafted(data, 64, 16)
    assert found.picture.size == becomes[::-1]
    assert found.size == rgb(data).shape[:2] == ((256, 128) if orientation in (6, 8) else (128, 256))
    small = Image.fromarray(rgb(data)).resize(becomes[::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - found.picture).mean() < 2


@pytest.mark.parametrize(("orientation", "becomes"), [(1, (20, 40)), (3, (40, 79)), (6, (79, 40))])
def test_draft_leaves_no_part_of_a_pixel_where_a_turn_would_move_it(orientation: int, becomes: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = drafted(encoded(gradient("RGB", (158, 80)), "JPEG", exif=exif), 16, 16)
    assert found.picture.size == becomes[::-1]
    assert found.extent == ((20, 39.5) if orientation == 1 else becomes)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_draft_leaves_other_formats_as_they_are(kind: str) -> None:
    data = picture(1, (256, 128), kind)
    found = drafted(data, 16, 16)
    assert found.size == (128, 256)
    assert np.array_equal(found.picture, rgb(data))


def test_draft_gives_the_same_verdicts() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(Rejected, match="truncated"):
            drafted(data[: int(len(data) * share)], 8, 8)
    with pytest.raises(Rejected, match="64 x 64 is 4096 pixels; --max-pixels is 4095"):
        decode(data, 4095, lambda h, w: (8, 8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_decode_is_exact_for_lossless_formats(kind: str) -> None:
    values = np.random.default_rng(3).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(rgb(encoded(Image.fromarray(values), kind)), values)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_decode_turns_the_picture_as_its_exif_says(orientation: int, kind: str) -> None:
    quarters = np.array(
        [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]], [[0, 0, 0], [255, 255, 0]]], np.uint8
    )
    upright = Image.fromarray(quarters).resize((32, 48), Image.Resampling.NEAREST)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose numbers: what makes the stored picture
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = rgb(encoded(stored, kind, exif=exif, **({} if kind in ("PNG", "TIFF") else {"quality": 100})))
    assert found.shape == (48, 32, 3)
    assert np.abs(found[4::16, 4::16].astype(int) - quarters).max() < 40


def test_decode_shows_the_picture_as_it_stands_when_its_exif_is_broken() -> None:
    data = encoded(gradient("RGB"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert rgb(data).shape == (8, 16, 3)


def test_decode_scales_16_bit_grey_instead_of_clipping() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    found = rgb(encoded(Image.fromarray(values), "PNG"))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


def test_decode_scales_16_bit_colour() -> None:
    raw = b"".join(b"\0" + struct.pack(">6H", 0, 65535, 32768, 65535, 0, 0) for _ in range(2))
    found = rgb(png(2, 2, 16, 2, raw))
    assert found[0, 0].tolist() == [0, 255, 128]
    assert found[1, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_decode_scales_wide_greys_of_tiff(mode: str) -> None:
    values = np.array([[0, 30000, 65535]], np.int32 if mode == "I" else np.float32)
    assert rgb(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 117, 255]


def test_decode_scales_floats_of_0_to_1_and_survives_nan() -> None:
    values = np.array([[0, 0.5, 1, np.nan]], np.float32)
    assert rgb(encoded(Image.fromarray(values), "TIFF"))[0, :, 1].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "RGB"])
def test_decode_of_every_png_mode_shows_the_same_grey(mode: str) -> None:
    image = Image.new("L", (4, 4), 255)
    assert (rgb(encoded(image.convert(mode), "PNG")) == 255).all()


def test_decode_composites_alpha_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert rgb(encoded(image, "PNG"))[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    image.putpixel((1, 0), (0, 0, 0, 128))
    assert rgb(encoded(image, "PNG"))[0, 1].tolist() == [127, 127, 127]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_decode_shows_white_through_a_palette_with_transparency(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert rgb(encoded(image, kind, transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_decode_shows_white_through_a_transparent_colour(mode: str) -> None:
    image = Image.new(mode, (2, 1), "black")
    image.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    data = encoded(image, "PNG", transparency=0 if mode == "L" else (0, 0, 0))
    assert rgb(data)[0].tolist() == [[255, 255, 255], [90, 90, 90]]


def test_decode_reads_cmyk_jpeg_as_the_colours_it_was_made_of() -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    found = rgb(encoded(image.convert("CMYK"), "JPEG", quality=100))  # Pillow writes Adobe's inverted kind
    assert np.abs(found.astype(int) - [200, 40, 90]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_decode_takes_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    data = encoded(
        frames[0],
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=50,
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    assert rgb(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_decode_rejects_too_large_pictures_from_the_header_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("pixels were decoded")

    data = picture(1, (40, 30), kind)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert reason(data, 40 * 30 - 1) == RejectReason.TOO_LARGE


def test_decode_rejects_a_bomb_of_a_few_bytes_without_pillows_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(png(60_000, 60_000, 8, 2, b"")) == RejectReason.TOO_LARGE
    huge = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2  # 65,536 x 65,536
    assert reason(huge) == RejectReason.TOO_LARGE


def test_decode_accepts_what_pillow_would_call_a_bomb_and_warns_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rgb(picture(1, (40, 30))).shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_decode_tells_truncated_pictures(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert reason(data[: int(len(data) * share)]) == RejectReason.TRUNCATED


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\0" * 500, b"%!PS-Adobe-3.0", b"P6 1 1 255 abc"])
def test_decode_rejects_what_is_no_picture(data: bytes) -> None:
    assert reason(data) == RejectReason.UNDECODABLE


@pytest.mark.parametrize("kind", ["ICO", "PPM", "JPEG2000", "AVIF"])
def test_decode_lets_no_other_format_reach_a_decoder(kind: str) -> None:
    assert reason(picture(1, (32, 32), kind)) == RejectReason.UNDECODABLE


def test_decode_rejects_a_png_with_damaged_pixels_as_undecodable() -> None:
    assert reason(png(4, 4, 8, 2, b"", idat=b"not zlib")) == RejectReason.UNDECODABLE


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2000))
def test_decode_gives_a_picture_or_a_verdict_whatever_the_bytes(kind: str, at: int, byte: int, cut: int) -> None:
    data = bytearray(picture(2, (20, 20), kind))
    data[at % len(data)] = byte
    try:
        found = decode(bytes(data[: len(data) - cut % len(data)]), 10_000)
    except Rejected as rejected:
        assert rejected.detail  # noqa: PT017 - either outcome is right
    else:
        assert found.picture.mode == "RGB"


def png(width: int, height: int, bits: int, colour: int, raw: bytes, idat: bytes | None = None) -> bytes:
    """A PNG written by hand."""
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, 2)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(raw) if idat is None else idat), (b"IEND", b"")):
        out.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "JPEG"])
def test_decode_keeps_nothing_but_the_picture(kind: str) -> None:
    """A comment of a GIF may be longer than a JPEG's, and is nobody's business in a thumbnail."""
    out = io.BytesIO()
    whole = Image.new("RGB", (8, 8), "red")
    if kind == "PNG":
        told = PngInfo()
        told.add_text("comment", "x" * 70_000, zip=True)
        whole.save(out, kind, pnginfo=told)
    else:
        whole.save(out, kind, comment=b"x" * (70_000 if kind == "GIF" else 60_000))
    found = decode(out.getvalue(), LIMIT).picture
    copy = io.BytesIO()
    found.save(copy, "JPEG")
    assert b"xxxx" in out.getvalue() or kind == "PNG"
    assert b"xxxx" not in copy.getvalue()
