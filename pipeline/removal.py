"""What a commit touches: the fragments that lose rows, and at least one, so that it conflicts with others like it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lance
from lance.fragment import FragmentMetadata


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
    fragments = {f.fragment_id: f for f in base.get_fragments()} if base is not None else {}
    if base is None or not fragments:
        return None
    touched = Touched([], [])
    for number, condition in _conditions(base, without).items() if without else ():
        left = fragments[number].delete(condition)
        if left is None:
            touched.removed.append(number)
        else:
            touched.updated.append(left)
    lowest = min(fragments)
    if lowest not in {*touched.removed, *(f.id for f in touched.updated)}:
        touched.updated.append(fragments[lowest].metadata)
    return touched


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
