"""Caption and image keys that the user named, held against the first shards before a dataset is fixed to them."""

from collections.abc import Sequence
from itertools import islice

from pipeline.config import ReadConfig
from pipeline.errors import ConfigError, RejectReason, ShardError
from pipeline.parquet import ParquetShard, columns_of
from pipeline.read import Reject, read_slice
from pipeline.shards import Format, Shard, Slice, sniff
from pipeline.stores.storage import FIRST_BYTES, open_shard, reading

_SHARDS = 3  # one that has the keys is enough
_SAMPLES = 20
_MISSING = (RejectReason.NO_IMAGE, RejectReason.NO_CAPTION)


def require_keys(shards: Sequence[Shard], config: ReadConfig) -> None:
    """Refuse keys that none of the first shards has.

    Raises:
        ConfigError: naming the shard, and what it has instead.
    """
    if not (config.caption_keys or config.image_key):
        return
    problems: list[str] = []
    for shard in shards[:_SHARDS]:
        try:
            problem = _problem(shard, config)
        except ShardError:
            continue  # it cannot be read, whatever the keys: the run says so of each such shard
        if problem is None:
            return
        problems.append(problem)
    if problems:
        raise ConfigError(problems[0])


def _problem(shard: Shard, config: ReadConfig) -> str | None:
    with reading(shard.uri), open_shard(shard.uri, shard.size, shard.etag) as file:
        if sniff(file.read(FIRST_BYTES)) == Format.PARQUET:
            file.seek(0)
            schema = ParquetShard(file).schema
            try:
                columns_of(schema, shard.uri, config)
            except ShardError as error:
                return str(error)
            return None
    first = list(islice(read_slice(Slice(shard, 0, 1, None), config), _SAMPLES))
    if not first or any(not isinstance(one, Reject) or one.reason not in _MISSING for one in first):
        return None
    named = [f"--caption-key {','.join(config.caption_keys)}"] if config.caption_keys else []
    named += [f"--image-key {config.image_key}"] if config.image_key else []
    told = "; ".join(sorted({one.detail for one in first if isinstance(one, Reject) and one.detail})[:2])
    return f"{' '.join(named)}: nothing of that name in the first samples of {shard.uri}" + (
        f": {told}" if told else ""
    )
