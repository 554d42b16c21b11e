"""An image's bytes -> the RGB picture that a person would see, or the reason why there is none."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.errors import RejectReason

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # of these, those that make the height the width
_SCALES = (8, 4, 2)  # libjpeg's, the smallest picture first

Resized = Callable[[int, int], tuple[int, int]]  # height and width -> what the model's resize makes of them


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    open: Callable[[io.BytesIO], ImageFile]
    whole: Callable[[bytes], bool]  # whether the bytes go on to the format's own end mark


# The classes themselves, not Image.open: no other decoder can be reached, and Image.open warns of large pictures
# and raises above a limit of its own, where here `max_pixels` decides.
_FORMATS: tuple[tuple[bytes, _Format], ...] = (
    (b"\xff\xd8\xff", _Format("JPEG", JpegImageFile, lambda b: b.rstrip(b"\0").endswith(b"\xff\xd9"))),
    (b"\x89PNG\r\n\x1a\n", _Format("PNG", PngImageFile, lambda b: b"IEND" in b[-64:])),
    (b"GIF8", _Format("GIF", GifImageFile, lambda b: b.rstrip(b"\0").endswith(b";"))),
    (b"RIFF", _Format("WebP", WebPImageFile, lambda b: len(b) >= 8 + int.from_bytes(b[4:8], "little"))),
    (b"BM", _Format("BMP", BmpImageFile, lambda b: len(b) >= int.from_bytes(b[2:6], "little"))),
    (b"II*\0", _Format("TIFF", TiffImageFile, lambda b: True)),
    (b"MM\0*", _Format("TIFF", TiffImageFile, lambda b: True)),
)


class Rejected(Exception):  # noqa: N818 - not a failure of the program, a verdict on the picture
    """A picture that cannot be had."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """`picture` is RGB, upright, without its source's comments; `size` the original's height and width, as seen."""

    picture: Image.Image
    size: tuple[int, int]
    scale: int = 1  # `picture` is 1 over this of the original

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width of what is seen in `picture`, whose last row and column it may fill in part alone."""
        return self.size[0] / self.scale, self.size[1] / self.scale


def decode(image: bytes, max_pixels: int, resized: Resized | None = None) -> DecodedImage:
    """Decode a JPEG, PNG, WebP, GIF, BMP or TIFF.

    Args:
        image: the bytes.
        max_pixels: of the original.
        resized: the resize that follows. Given it, a JPEG is decoded at 1/8, 1/4 or 1/2 of its size where that is no
            smaller than what the resize makes of it: quicker, and not quite the same picture.

    Raises:
        Rejected: UNDECODABLE, TRUNCATED, or TOO_LARGE (told from the header alone).
    """
    format = next((f for magic, f in _FORMATS if image.startswith(magic)), None)
    if format is None:
        begins = f"it begins with {image[:12]!r}" if image else "it has 0 bytes"
        raise Rejected(RejectReason.UNDECODABLE, f"not a JPEG, PNG, WebP, GIF, BMP or TIFF: {begins}")
    size, scale = None, 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters in them (broken pictures) also raises
            if format.name == "WebP":  # its class allocates the whole picture when it opens one
                _check_size(_webp_size(image), max_pixels)
            with format.open(io.BytesIO(image)) as picture:
                _check_size(picture.size, max_pixels)
                if resized and isinstance(picture, JpegImageFile):
                    size, scale = _draft(picture, resized)
                picture.load()
                upright = _upright(picture, _rgb(picture))
                upright.info.clear()  # comments and the like, which Pillow would write into a copy
    except Rejected:
        raise
    except Exception as error:  # a decoder on hostile bytes may raise anything: the picture is bad
        said = str(error) or type(error).__name__
        if not format.whole(image) or "truncated" in said.lower():
            raise Rejected(RejectReason.TRUNCATED, f"{format.name} of {len(image)} bytes: {said}") from error
        raise Rejected(RejectReason.UNDECODABLE, f"{format.name}: {said}") from error
    return DecodedImage(upright, size or (upright.height, upright.width), scale)


def _draft(picture: JpegImageFile, resized: Resized) -> tuple[tuple[int, int], int]:
    """Have it decoded as small as the resize allows; its whole height and width, as seen, and the scale."""
    orientation = _orientation(picture)
    height, width = picture.size if orientation in _SIDEWAYS else picture.size[::-1]
    wanted = resized(height, width)
    for scale in _SCALES:
        enough = 0 < wanted[0] <= height // scale and 0 < wanted[1] <= width // scale
        # Part of a pixel may be left over, last in the file: nobody would look for it where turning brings it.
        in_place = orientation not in _UPRIGHT or not (height % scale or width % scale)
        # Sides are rounded, first when made smaller and then to the model's multiples: not always to the same ones.
        if enough and in_place and resized(-(-height // scale), -(-width // scale)) == wanted:
            picture.draft(None, (picture.width // scale, picture.height // scale))
            return (height, width), scale
    return (height, width), 1


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise Rejected(
            RejectReason.TOO_LARGE, f"{width} x {height} is {width * height} pixels; --max-pixels is {max_pixels}"
        )


def _webp_size(image: bytes) -> tuple[int, int]:
    """Width and height from a WebP's first chunk (RFC 9649); (0, 0) if it is none of the known ones."""
    chunk, data = image[12:16], image[20:30]
    if len(data) < 10:
        raise EOFError("truncated header")
    if chunk == b"VP8X":
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    return 0, 0


def _rgb(picture: Image.Image) -> Image.Image:
    """Eight bits a channel, on white where it is transparent."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _scaled(picture)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return picture.convert("RGB")


def _scaled(picture: Image.Image) -> Image.Image:
    """Wide greys as eight bits.

    16-bit by its range; float by 0..1 and the like where it lies within, else by the values that are there.
    """
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    if picture.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = min(0.0, float(values.min())), float(values.max())
        steps = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0)
        if low == 0.0:
            high = next((s for s in steps if high <= s), high)
    grey = (values - low) * (255.0 / ((high - low) or 1.0))
    return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))


def _upright(picture: Image.Image, rgb: Image.Image) -> Image.Image:
    """Turned as its EXIF says."""
    turn = _UPRIGHT.get(_orientation(picture))
    return rgb.transpose(turn) if turn is not None else rgb


def _orientation(picture: Image.Image) -> int:
    """EXIF's number; broken EXIF says nothing, and Pillow has turned a TIFF already."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - a picture with broken EXIF is shown as it stands, as viewers do
        return 1
    return orientation if isinstance(orientation, int) else 1
