"""Every error the data plane raises on purpose, and every reason for which a pair is rejected.

BridgelakeError                 base; its text says what, which, what was allowed, what to do
├── ConfigError                 a value given by the user is not valid              (exit 2)
├── InputError                  the inputs hold nothing that can be read            (exit 1)
├── ShardError                  one shard could not be read to its end; names the shard
├── CoverageError               positions written do not cover what was read; names the slice
├── DoubtError                  a slice has so many broken vectors that the device is to be doubted
├── ContractError               the table was made with another model or preprocessing (exit 1)
├── TableError                  the table cannot be opened, written or committed    (exit 1)
│   └── CommitConflictError     somebody else committed first; the committer tries again
├── LedgerError                 ledger and table contradict each other; see verify.py (exit 1)
├── ClusterError                the cluster lacks what the run asked for            (exit 1)
│   ├── PreflightError          a worker or the store is not as the run needs it
│   └── StalledError            a stage made no progress for too long; names the stage
├── LimitError                  a statement needs more time or memory than it may  (exit 1)
├── RejectRateError             more pairs were rejected than the run may lose      (exit 1)
├── TickError                   a step of a scheduled tick failed, so the tag live stays (exit 1)
│   └── BusyError               another tick of this table is running           (exit 1)
├── OutputError                 an export cannot be written where it was asked to be (exit 1)
└── FetchError                  a row's picture could not be fetched again from its shard
"""

from enum import StrEnum


class BridgelakeError(Exception):
    """Base of all errors that this package raises on purpose."""

    exit_code = 1


class ConfigError(BridgelakeError):
    """A value given by the user is not valid."""

    exit_code = 2


class InputError(BridgelakeError):
    """The inputs hold nothing that can be read."""


class ShardError(BridgelakeError):
    """One shard could not be read to its end."""

    def __init__(self, shard: str, why: str) -> None:
        super().__init__(shard, why)  # both, so that it survives pickling between processes
        self.shard = shard
        self.why = why

    def __str__(self) -> str:
        return f"{self.shard}: {self.why}"


class CoverageError(BridgelakeError):
    """The positions written or rejected are not exactly those that were read."""


class DoubtError(BridgelakeError):
    """So many vectors of a slice cannot be stored that the device or the model is to be doubted."""


class TableError(BridgelakeError):
    """A table cannot be opened, written or committed."""


class VersionGoneError(TableError):
    """A version was cleaned up, so that nobody knows what its commit carried."""


class ContractError(BridgelakeError):
    """The table was made with another model, preprocessing or storage type."""


class CommitConflictError(TableError):
    """Somebody else committed since the version that this commit was made for."""


class LedgerError(BridgelakeError):
    """Ledger and table contradict each other; trying again would not help."""


class ClusterError(BridgelakeError):
    """The cluster lacks what the run asked for."""


class PreflightError(ClusterError):
    """A worker or the store is not as the run needs it; found before any work is done."""


class StalledError(ClusterError):
    """A stage made no progress for too long."""


class LimitError(BridgelakeError):
    """An SQL statement needs more time or memory than it may take."""


class RejectRateError(BridgelakeError):
    """More pairs were rejected than the run may lose; what was whole is committed."""


class TickError(BridgelakeError):
    """A step of a scheduled tick failed, so that the tag `live` stays where it is."""


class BusyError(TickError):
    """Another tick of this table is running."""


class OutputError(BridgelakeError):
    """An export cannot be written where it was asked to be."""


class FetchError(BridgelakeError):
    """A row's picture could not be fetched again from its shard."""


class RejectReason(StrEnum):
    """Why a pair did not become a row. The values are stored in `<table>_rejects`."""

    NO_IMAGE = "no_image"  # the sample has no member or column value with a picture
    NO_CAPTION = "no_caption"  # no caption, or an empty one
    NOT_DOWNLOADED = "not_downloaded"  # img2dataset: status other than success
    UNDECODABLE = "undecodable"  # not a picture that Pillow can read
    TRUNCATED = "truncated"  # the picture's bytes end before the picture does
    TOO_LARGE = "too_large"  # more pixels than --max-pixels, told from the header
    EXTREME_ASPECT = "extreme_aspect"  # a side would be resized to nothing
    DUPLICATE_KEY = "duplicate_key"  # the key stands earlier in the same shard
    TORN_SAMPLE = "torn_sample"  # members of one sample do not stand together
    BAD_JSON = "bad_json"  # the sample's .json cannot be parsed
    BAD_TEXT = "bad_text"  # a caption that is not valid UTF-8
    BAD_METADATA = "bad_metadata"  # a --keep value that does not fit its column's type
    NOT_FINITE = "not_finite"  # the model gave a vector that is not finite or not of unit length


class Stage(StrEnum):
    """Where in the pipeline a pair was rejected."""

    READ = "read"
    DECODE = "decode"
    EMBED = "embed"
