"""WebDataset tars -> raw samples, as a stream.

A sample's key is its members' path up to the first dot of the base name, without a leading `./`; what follows
the dot is the member's suffix. Members of a sample stand together: a new sample begins with another key, or with
a suffix that the sample has already. When a key comes again, its later members are a duplicate if they hold a
picture (DUPLICATE_KEY), else a torn-off rest (TORN_SAMPLE); the earlier members are judged as they stand. Of
several pictures in one sample the first is taken. Members without a dot or a name before it (`README`,
`._000.jpg`) and `__*__` belong to no sample, as in WebDataset; directories are nothing.
"""

import json
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.config import ReadConfig
from pipeline.errors import RejectReason, ShardError
from pipeline.metadata import utf8
from pipeline.samples import CAPTION_NAMES, IMAGE_SUFFIXES, Fault, Place, RawSample, captions_in, folded

_TEXT_LIMIT = 16 * 2**20  # bytes of a .txt or .json; more is not a caption
_PIXEL_BYTES = 8  # 16-bit RGBA, uncompressed: no picture needs more
_HEADERS = 2**20  # room for a picture's own headers and profiles
_CUT = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]  # typeshed lacks them
_END = tarfile.EOFHeaderError  # type: ignore[attr-defined]


def tar_samples(stream: BinaryIO, uri: str, config: ReadConfig) -> Iterator[RawSample]:
    """The samples of an uncompressed tar stream; raises ShardError if it is not whole."""
    group: _Group | None = None
    for member in _members(stream, uri):
        prefix, dot, suffix = _split(member.name)
        if not dot or member.isdir():
            continue
        if group is None or prefix != group.key or suffix in group.suffixes:
            if group is not None:
                yield group.sample()
            group = _Group(prefix, config)
        group.add(suffix, member, stream, uri)
    if group is not None:
        yield group.sample()


def _split(name: str) -> tuple[str, str, str]:
    """(key, ".", suffix) of a member's name; no dot if it belongs to no sample."""
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").removeprefix("./")
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or (base.startswith("__") and base.endswith("__")):
        return name, "", ""
    return folder + slash + stem, dot, suffix.lower()


def _members(stream: BinaryIO, uri: str) -> Iterator[tarfile.TarInfo]:
    """Every member's header in turn, then the check that the archive ends as it should.

    Not `for member in TarFile`: that takes a bad header for the end, and keeps all headers in memory.
    """
    archive = tarfile.TarFile(fileobj=stream, encoding="utf-8")
    archive.offset = 0
    while True:
        stream.seek(archive.offset)
        start = archive.offset
        try:
            member = tarfile.TarInfo.fromtarfile(archive)
        except _CUT:
            end = stream.seek(0, 1)
            raise ShardError(uri, f"cut short: it ends at byte {end}, without the archive's end blocks") from None
        except _END:
            break
        except (tarfile.HeaderError, UnicodeError, ValueError) as error:
            raise ShardError(uri, f"damaged: no tar header at byte {start} ({error})") from error
        if archive.offset <= start:  # a size below zero would send us round for ever
            raise ShardError(uri, f"damaged: the header at byte {start} has a size of {member.size}")
        yield member
    _check_end(stream, archive.offset, uri)


def _check_end(stream: BinaryIO, offset: int, uri: str) -> None:
    """Read what follows the first end block: zeros; and, in a gzip, its checksum."""
    stream.seek(offset)
    while block := stream.read(2**20):
        if block.strip(b"\0"):
            raise ShardError(uri, f"data after the archive's end at byte {offset}: several tars in one? Repack it")


class _Group:
    """The members of one key that stand together."""

    def __init__(self, key: str, config: ReadConfig) -> None:
        self.key = key
        self.suffixes: list[str] = []
        self._image: bytes | None = None
        self._place = Place()
        self._fault: Fault | None = None  # of the picture
        self._texts: dict[str, bytes | Fault] = {}
        self._caption_keys = tuple(k.lower() for k in config.caption_keys)
        self._images = (config.image_key.lower(),) if config.image_key else IMAGE_SUFFIXES
        self._image_limit = config.max_pixels * _PIXEL_BYTES + _HEADERS

    def add(self, suffix: str, member: tarfile.TarInfo, stream: BinaryIO, uri: str) -> None:
        """Take a member: read it if it is the picture or text, else only remember that it is there."""
        self.suffixes.append(suffix)
        is_image = suffix in self._images and self._place.image_offset is None and self._fault is None
        if not is_image and suffix not in ("txt", "json", *self._caption_keys):
            return
        fault = self._unreadable(suffix, member, self._image_limit if is_image else _TEXT_LIMIT)
        if is_image:
            self._fault = fault
            if not fault:
                self._place = Place(image_offset=member.offset_data, image_length=member.size)
                self._image = _data(member, stream, uri)
        else:
            self._texts[suffix] = fault or _data(member, stream, uri)

    def _unreadable(self, suffix: str, member: tarfile.TarInfo, limit: int) -> Fault | None:
        reason = RejectReason.NO_IMAGE if suffix in self._images else RejectReason.BAD_TEXT
        if suffix == "json":
            reason = RejectReason.BAD_JSON
        if not member.isreg() or member.issparse():
            kind = "a sparse file" if member.issparse() else "a link" if member.islnk() or member.issym() else "special"
            return Fault(reason, f"{utf8(member.name)} is {kind} in the tar, not a plain file")
        if member.size > limit:
            reason = RejectReason.TOO_LARGE if suffix in self._images else reason
            return Fault(reason, f"{utf8(member.name)} has {member.size} bytes, allowed are {limit}")
        return None

    def sample(self) -> RawSample:
        """The members as a sample."""
        fields, json_fault = self._json()
        names = folded(fields)
        fault = self._fault
        if self._image is None and fault is None:
            fault = Fault(RejectReason.NO_IMAGE, f"its members are {', '.join(self.suffixes)}: none is a picture")
        used, values = self._captions(fields, names)
        url = fields.get(names.get("url", ""))
        if str(fields.get(names.get("key", ""))) == self.key.rpartition("/")[2]:
            used.add("key")
        return RawSample(
            key=self.key,
            place=self._place,
            image=self._image,
            captions=captions_in(values),
            fields=fields,
            used=frozenset(used | {"url"}),
            url=utf8(url) if isinstance(url, str) else None,
            fault=fault or json_fault,
            torn=self._image is None and self._fault is None,
        )

    def _json(self) -> tuple[dict[str, object], Fault | None]:
        text = self._texts.get("json")
        if text is None:
            return {}, None
        if isinstance(text, Fault):
            return {}, text
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
            return {}, Fault(RejectReason.BAD_JSON, str(error))
        if not isinstance(fields, dict):
            return {}, Fault(RejectReason.BAD_JSON, f"it holds {type(fields).__name__}, not an object")
        return fields, None

    def _captions(self, fields: dict[str, object], names: dict[str, str]) -> tuple[set[str], list[object]]:
        """The JSON fields that are captions, and the captions' values; a Fault stands for an unreadable one."""
        if self._caption_keys:
            found = [self._texts.get(k, fields.get(names.get(k, ""))) for k in self._caption_keys]
            return set(self._caption_keys), found
        used = {n for n in CAPTION_NAMES[:1] if n in names}
        text = self._texts.get("txt")
        if isinstance(text, Fault) or (text and text.strip()):
            return used, [text]
        for name in CAPTION_NAMES:
            value = fields.get(names.get(name, ""))
            if value not in (None, "", []):
                return {name}, [value]
        return used, [text] if text is not None else []


def _data(member: tarfile.TarInfo, stream: BinaryIO, uri: str) -> bytes:
    stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) != member.size:
        left = member.size - len(data)
        raise ShardError(uri, f"cut short: it ends inside {utf8(member.name)}, {left} bytes before that member's end")
    return data
