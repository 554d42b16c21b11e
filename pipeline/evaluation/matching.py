"""The look at the pictures: ITM margins of chosen pairs, each picture fetched and encoded once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.calls import Images
from pipeline.decode import Rejected, decode
from pipeline.embed import Pixels, Preparer, Vectors
from pipeline.errors import FetchError
from pipeline.evaluation.pairs import Pairs
from pipeline.fetch import Answer, Row
from pipeline.retrieval.hits import fetch_by_dataset

TIE = 1e-4  # of two margins: so much can one change with the batch it is computed in
_AT_ONCE = 64  # pictures held in memory
_THREADS = 4

Codes = npt.NDArray[np.int64]  # of pairs: number of the picture * captions + number of the caption


class Matcher(Protocol):
    """A model with an ITM head."""

    def margins(self, pixels: Pixels, texts: Sequence[str], text_of: Images, image_of: Images) -> Vectors:
        """(P,): the ITM logit of "they match" less that of "they do not", for pairs given by their indexes."""
        ...


def margins(
    pairs: Pairs, codes: Codes, preparer: Preparer, matcher: Matcher, told: Callable[[int, int], None]
) -> Vectors:
    """ITM margins of some pairs, in their order.

    Args:
        pairs: the pictures and captions.
        codes: which of all pairs of them, sorted, each once.
        preparer: the checkpoint's preprocessing.
        matcher: the model.
        told: called with the pictures that were looked at, and how many there are to look at.

    Raises:
        FetchError: a picture cannot be had. Without it the figures would be better than they are.
    """
    image_of, text_of = np.divmod(codes, len(pairs.captions))
    wanted = sorted(np.unique(image_of).tolist(), key=lambda image: _place(pairs.rows[image]))
    found = np.empty(len(codes), np.float32)
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        pixels = _squares(pairs, some, preparer)
        mine = np.flatnonzero(np.isin(image_of, some))
        order = {image: i for i, image in enumerate(some)}
        of = np.array([order[image] for image in image_of[mine].tolist()])
        # One caption's pairs together: its text is encoded once for them.
        mine, of = mine[np.argsort(text_of[mine], kind="stable")], of[np.argsort(text_of[mine], kind="stable")]
        texts, text = np.unique(text_of[mine], return_inverse=True)
        found[mine] = matcher.margins(pixels, [pairs.captions[t] for t in texts], text, of)
        told(start + len(some), len(wanted))
    return found


def _place(row: Row) -> tuple[str, str, int, int]:
    """Neighbours in a shard together: a row group or a gzipped tar is read through once for all of its pictures."""
    return row["dataset"], row["shard"], row["row_group"] or 0, row["image_offset"] or row["row_in_group"] or 0


def _squares(pairs: Pairs, images: Sequence[int], preparer: Preparer) -> Pixels:
    rows = [pairs.rows[image] for image in images]
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(partial(_square, preparer), rows, fetch_by_dataset(rows, pairs.roots))))


def _square(preparer: Preparer, row: Row, image: Answer) -> Pixels:
    if isinstance(image, FetchError):
        raise FetchError(f"{image}; or evaluate without looking at pictures, with --rerank-top 0")
    try:
        return preparer.picture(decode(image, row["width"] * row["height"]).picture)
    except Rejected as error:
        raise FetchError(
            f"the picture {row['key']} of shard {row['shard']} is {error.reason}: {error.detail}"
        ) from error
