"""A table as it was: at a version's number, or at a tag."""

from collections.abc import Sequence

import lance

from pipeline.errors import TableError
from pipeline.stores.storage import redact


def at_version(dataset: lance.LanceDataset, version: int | str) -> lance.LanceDataset:
    """The same table at another version.

    Raises:
        TableError: there is no such version or tag; it tells which there are.
    """
    wanted = int(version) if str(version).isdecimal() else version
    try:
        return dataset.checkout_version(wanted)
    except (OSError, ValueError, RuntimeError) as error:
        versions = [v["version"] for v in dataset.versions()]
        tags = sorted(dataset.tags.list())
        if wanted in (*versions, *tags):
            raise
        said = f"the tags are {', '.join(tags)}" if tags else "it has no tags"
        raise TableError(
            f"{redact(dataset.uri)} has no version {version!r}: the versions are {ranges(versions)}, {said}"
        ) from error


def ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 -> "1 to 3, 7"."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number])
    return ", ".join(" to ".join(str(n) for n in dict.fromkeys(part)) for part in found)
