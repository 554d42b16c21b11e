"""What reading gives: samples and rejects, each pair at its own position in the slice."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.config import Keep, ReadConfig
from pipeline.errors import RejectReason, Stage
from pipeline.metadata import BadValueError, as_json, as_type, utf8

CAPTION_NAMES = ("caption", "text", "captions", "texts", "alt_text")
IMAGE_NAMES = ("image", "jpg", "png", "webp", "jpeg", "image_bytes", "bytes")
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


def row_id(dataset: str, shard: str, key: str, caption_index: int) -> str:
    """The id of a pair, and of its row: the same wherever the bucket is mirrored or moved."""
    name = "\0".join((dataset, shard, key, str(caption_index)))
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies in its shard: a byte range of a tar, or a row of a parquet."""

    image_offset: int | None = None
    image_length: int | None = None
    row_group: int | None = None
    row_in_group: int | None = None


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption; `position` is its pair's in the slice, `index` its own among the sample's captions."""

    position: int
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and its captions; `position` is that of the first caption here."""

    position: int
    key: str
    image: bytes
    sha256: str  # of the image, hexadecimal
    captions: tuple[Caption, ...]
    url: str | None
    place: Place
    keep: dict[str, object]
    metadata: str | None


@dataclass(frozen=True, slots=True)
class Reject:
    """One pair that cannot become a row."""

    position: int
    key: str
    caption_index: int
    caption: str | None
    url: str | None
    place: Place
    stage: Stage
    reason: RejectReason
    detail: str
    sha256: str | None = None  # of its picture, if there is one


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a sample, or with one caption."""

    reason: RejectReason
    detail: str


@dataclass(slots=True)
class RawSample:
    """A sample as it stands in the shard, not yet judged. `used` names the fields that are not metadata."""

    key: str
    place: Place
    image: bytes | None = None
    captions: list[str | Fault] = field(default_factory=list)
    fields: Mapping[str, object] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    url: str | None = None
    fault: Fault | None = None
    torn: bool = False  # only some members of a sample: if its key was seen before, it is a rest of that one


class Fingerprint:
    """Of all that was read, pictures included: the same after a copy or a touch, whatever is made of it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, raw: RawSample, image: str | None) -> None:
        """Take in one more; `image` is the SHA-256 of its picture."""
        what = (raw.key, image, raw.captions, raw.url, raw.place, sorted(raw.fields.items()), raw.fault, raw.torn)
        self._hash.update(repr(what).encode("utf-8", "surrogatepass"))

    def __str__(self) -> str:
        return self._hash.hexdigest()[:32]


class Judge:
    """Gives every pair its position, and tells samples from rejects."""

    def __init__(
        self, config: ReadConfig, seen: set[str] | None = None, fingerprint: Fingerprint | None = None
    ) -> None:
        """`seen`: keys that stand earlier in the shard; `fingerprint`: takes in all that is judged."""
        self._fingerprint = fingerprint or Fingerprint()
        self._keep = config.keep
        self._not_metadata = frozenset(k.name.lower() for k in config.keep)
        self._seen = set() if seen is None else seen
        self._position = 0

    def __call__(self, raw: RawSample) -> Iterator[Sample | Reject]:
        """The sample's rejects and, if at least one of its pairs is left, the sample."""
        sha256 = None if raw.image is None else hashlib.sha256(raw.image).hexdigest()
        self._fingerprint.add(raw, sha256)
        fault = self._repeated(raw) or raw.fault
        keep: dict[str, object] = {}
        unfit: set[str] = set()
        if fault is None:
            try:
                keep, unfit = keep_values(self._keep, raw.fields)
            except BadValueError as error:
                fault = Fault(RejectReason.BAD_METADATA, str(error))
        texts = raw.captions or [fault or Fault(RejectReason.NO_CAPTION, "the sample has no caption")]
        good = []
        for index, text in enumerate(texts):
            if isinstance(text, str) and fault is None:
                good.append(Caption(self._position, index, text))
            else:
                yield replace(self._reject(raw, index, text, fault), sha256=sha256)
            self._position += 1
        if good and raw.image is not None and sha256 is not None:
            metadata = as_json(raw.fields, raw.used | (self._not_metadata - unfit))
            what = (good[0].position, raw.key, raw.image, sha256, tuple(good), raw.url, raw.place)
            yield Sample(*what, keep, metadata)

    def _reject(self, raw: RawSample, index: int, text: str | Fault, fault: Fault | None) -> Reject:
        """The sample's own fault goes before its caption's."""
        caption, wrong = (text, fault) if isinstance(text, str) else (None, fault or text)
        assert wrong is not None  # noqa: S101 - a good caption is rejected only for the sample's fault
        where = (self._position, raw.key, index, caption, raw.url, raw.place)
        return Reject(*where, Stage.READ, wrong.reason, wrong.detail)

    def _repeated(self, raw: RawSample) -> Fault | None:
        if raw.key not in self._seen:
            self._seen.add(raw.key)
            return None
        if raw.torn:
            return Fault(RejectReason.TORN_SAMPLE, f"other members of {raw.key} stand earlier, with other keys between")
        return Fault(RejectReason.DUPLICATE_KEY, f"the key {raw.key} stands earlier in this shard")


def keep_values(keep: Sequence[Keep], fields: Mapping[str, object]) -> tuple[dict[str, object], set[str]]:
    """The columns to bring along, typed, and the names (lower case) of those not asked for that do not fit theirs.

    Raises:
        BadValueError: the value of a column that was asked for does not fit its type.
    """
    names = folded(fields) if keep else {}
    values: dict[str, object] = {}
    unfit: set[str] = set()
    for k in keep:
        try:
            values[k.name] = as_type(k, fields.get(names.get(k.name.lower(), "")))
        except BadValueError:
            if k.asked:
                raise
            values[k.name] = None
            unfit.add(k.name.lower())
    return values, unfit


def folded(fields: Mapping[str, object]) -> dict[str, str]:
    """Lower-case name -> name as it stands; the first of several wins."""
    names: dict[str, str] = {}
    for name in fields:
        names.setdefault(name.lower(), name)
    return names


def captions_in(values: Sequence[object]) -> list[str | Fault]:
    """The captions in the values of the caption fields, one after the other; a list is several captions."""
    captions: list[str | Fault] = []
    for value in values:
        if isinstance(value, list | tuple):
            captions += [_caption(v) for v in value]
        elif isinstance(value, Fault):
            captions.append(value)
        elif not _is_null(value):
            captions.append(_caption(value))
    return captions


def _caption(value: object) -> str | Fault:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            return Fault(RejectReason.BAD_TEXT, f"not UTF-8: byte {error.start} is 0x{value[error.start]:02x}")
    if _is_null(value):
        return Fault(RejectReason.NO_CAPTION, "the caption is null")
    if not isinstance(value, str):
        return Fault(RejectReason.NO_CAPTION, f"the caption is {type(value).__name__}, not text")
    if utf8(value) != value:
        return Fault(RejectReason.BAD_TEXT, "the text holds half of a surrogate pair")
    return value.strip() or Fault(RejectReason.NO_CAPTION, "the caption is empty")


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
