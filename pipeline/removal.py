"""What a commit touches: the fragments that lose rows, and at least one, so that it conflicts with others like it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lance
from lance.fragment import FragmentMetadata

_NEAR = 100  # numbers of fragments that are asked for one by one


@dataclass(frozen=True, slots=True)
class Removal:
    """Rows to remove: those that meet an SQL condition, or some rows of the very version that is committed on."""

    condition: str = ""
    column: str | None = None  # with it, a fragment is asked only for the values that it holds, which is quicker
    of_values: Callable[[list[str]], str] | None = None  # a condition for some values of that column
    row_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Touched:
    """Fragments that a commit changes or removes; at least one."""

    updated: list[FragmentMetadata]
    removed: list[int]


def touch(base: lance.LanceDataset | None, without: Removal | None) -> Touched | None:
    """What a commit on top of `base` touches: where rows go, or else the lowest fragment; None if there is none."""
    if base is None or (lowest := _lowest(base)) is None:
        return None
    touched = Touched([], [])
    for number, condition in _conditions(base, without).items() if without else ():
        left = base.get_fragment(number).delete(condition)
        if left is None:
            touched.removed.append(number)
        else:
            touched.updated.append(left)
    if lowest.fragment_id not in {*touched.removed, *(f.id for f in touched.updated)}:
        touched.updated.append(lowest.metadata)
    return touched


def _lowest(base: lance.LanceDataset) -> lance.LanceFragment | None:
    """The lowest fragment. It is mostly near 0, and of very many a list of all takes longer than the commit."""
    near = (base.get_fragment(number) for number in range(_NEAR))
    found = next((fragment for fragment in near if fragment is not None), None)
    return found or min(base.get_fragments(), key=lambda fragment: fragment.fragment_id, default=None)


def _conditions(base: lance.LanceDataset, removal: Removal) -> dict[int, str]:
    """Fragment -> what is to be removed from it, found by one scan unless the rows are known."""
    if removal.row_ids:
        of: dict[int, list[int]] = {}
        for row_id in removal.row_ids:
            of.setdefault(row_id >> 32, []).append(row_id)
        return {number: f"_rowid IN ({', '.join(map(str, some))})" for number, some in sorted(of.items())}
    columns = [removal.column] if removal.column else []
    rows = base.to_table(columns=columns, filter=removal.condition, with_row_address=True)
    holding = [address >> 32 for address in rows["_rowaddr"].to_pylist()]
    if removal.column is None or removal.of_values is None:
        return dict.fromkeys(sorted(set(holding)), removal.condition)
    values: dict[int, set[str]] = {}
    for number, value in zip(holding, rows[removal.column].to_pylist(), strict=True):
        values.setdefault(number, set()).add(value)
    return {number: removal.of_values(sorted(some)) for number, some in sorted(values.items())}
