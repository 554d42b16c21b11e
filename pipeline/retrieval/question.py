"""A question to the table, checked before anything is opened or loaded."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from pipeline.errors import ConfigError
from pipeline.schema import EMBEDDING_COLUMNS

CANDIDATES = 50  # that a rerank looks at


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, checked: words, a picture, both, or a row whose like is wanted.

    Attributes:
        words: what the picture shows; with `image` too, both are looked for together.
        image: the bytes of a picture to search with.
        like: or the id of a row: what lies near its own vector, its picture left out.
        column: which vectors are searched: image, text (the captions) or cross (picture and caption fused).
        mode: vector; fulltext, the words of the captions (BM25); or hybrid, both, by reciprocal rank fusion.
        where: an SQL condition that rows must meet before the search.
        select: which columns come back; all but the vectors unless given.
        limit: how many hits.
        offset: how many of the best are passed over first.
        min_itm: the least `itm_query` after a rerank; without one, the least `itm_score`, before the search.
        max_distance: the largest cosine distance of a hit, 0 to 2; of hybrid's vector half.
        nprobes: partitions of the vector index to look into; what the last build found best unless given.
        refine: look at this many times the wanted hits by their exact vectors; as for `nprobes`.
        exact: pass over the vector index and compare every row.
        rerank: "itm" looks at the pictures of the best candidates and orders them by how well they match the words.
        candidates: how many a rerank looks at; 50, or `offset + limit` if that is more.
        one_per_image: show a picture once for all its captions.
        version: of the table: a number or a tag; the latest unless given.
    """

    words: str = ""
    _: KW_ONLY
    image: bytes | None = None
    like: str | None = None
    column: str = "image"
    mode: str = "vector"
    where: str = ""
    select: Sequence[str] | None = None
    limit: int = 10
    offset: int = 0
    min_itm: float | None = None
    max_distance: float | None = None
    nprobes: int | None = None
    refine: int | None = None
    exact: bool = False
    rerank: str | None = None
    candidates: int | None = None
    one_per_image: bool = True
    version: int | str | None = None

    MODES: ClassVar[tuple[str, ...]] = ("vector", "fulltext", "hybrid")

    def __post_init__(self) -> None:
        self._require_choices()
        self._require_subject()
        self._require_counts()
        self._require_meaning()

    def _require_choices(self) -> None:
        for name, value, allowed in (
            ("column", self.column, tuple(EMBEDDING_COLUMNS)),
            ("mode", self.mode, self.MODES),
            ("rerank", self.rerank, (None, "itm")),
        ):
            if value not in allowed:
                names = " or ".join(a for a in allowed if a)
                raise ConfigError(f"--{name} {value!r} is not valid: allowed is {names}")

    def _require_subject(self) -> None:
        words = bool(self.words.strip())
        if self.like is not None and (words or self.image is not None):
            raise ConfigError("--like stands alone: it searches with a row's own vector, without words or --image")
        if not words and self.image is None and not self.like:
            raise ConfigError('nothing to search for: give words, as in "two cats on a couch", --image or --like')
        if self.mode != "vector" and not words:
            raise ConfigError(f"--mode {self.mode} looks for words in the captions: it needs words")
        if self.mode == "fulltext" and self.image is not None:
            raise ConfigError("--mode fulltext looks for words alone: leave --image out, or use --mode hybrid")
        if self.rerank and not words:
            raise ConfigError(f"--rerank {self.rerank} asks how well words match a picture: it needs words")

    def _require_counts(self) -> None:
        least = {"limit": 1, "offset": 0, "nprobes": 1, "refine": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"--{name} {value} is not valid: allowed is a number from {lowest}")
        for name, largest in (("min_itm", 1), ("max_distance", 2)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= largest:
                raise ConfigError(f"--{name.replace('_', '-')} {value} is not valid: allowed is 0 to {largest}")
        if self.candidates is not None and self.candidates < self.wanted:
            raise ConfigError(
                f"--candidates {self.candidates} is not valid: at least --offset and --limit, {self.wanted} together, "
                "must be looked at"
            )

    def _require_meaning(self) -> None:
        """Refuse options that the rest of the question would leave without effect."""
        if self.candidates is not None and not self.rerank:
            raise ConfigError("--candidates tells how many a rerank looks at: it goes with --rerank itm")
        if self.mode == "fulltext":
            for name in ("max_distance", "nprobes", "refine"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"--{name.replace('_', '-')} is of a search by vectors: not with --mode fulltext")
        if self.exact and (self.nprobes or self.refine):
            raise ConfigError("--exact compares every row: it leaves --nprobes and --refine without meaning")
        if self.select is not None and (isinstance(self.select, str) or not self.select):
            raise ConfigError(f"--select {self.select!r} is not valid: name one column or more")

    @property
    def wanted(self) -> int:
        """How many hits there must be, those passed over included."""
        return self.offset + self.limit

    @property
    def depth(self) -> int:
        """How many hits the search has to bring."""
        return (self.candidates or max(CANDIDATES, self.wanted)) if self.rerank else self.wanted

    @property
    def filter(self) -> str:
        """What rows must meet before the search, as one SQL condition; empty if there is none."""
        least = f"itm_score >= {self.min_itm!r}" if self.min_itm is not None and not self.rerank else ""
        where = self.where if self.where.strip() else ""
        return f"({where}\n) AND {least}" if where and least else where or least

    @property
    def title(self) -> str:
        """What was asked, in a few words."""
        if self.like is not None:
            return f"pictures like that of row {self.like}"
        if self.image is None:
            return self.words
        return f"{self.words}, in pictures like this one" if self.words.strip() else "pictures like this one"

    @property
    def detail(self) -> str:
        """How it was asked, in a few words."""
        said = {
            "by": {"vector": "", "fulltext": "full text", "hybrid": "hybrid"}[self.mode],
            "in": f"{self.column} vectors" if self.column != "image" and self.mode != "fulltext" else "",
            "where": f"where {self.where}" if self.where.strip() else "",
            "itm": f"itm at least {self.min_itm:g}" if self.min_itm is not None else "",
            "near": f"distance at most {self.max_distance:g}" if self.max_distance is not None else "",
            "at": f"version {self.version}" if self.version is not None else "",
            "from": f"from hit {self.offset + 1}" if self.offset else "",
            "rerank": f"{self.rerank} rerank of the best {self.depth}" if self.rerank else "",
        }
        return ", ".join(part for part in said.values() if part)
