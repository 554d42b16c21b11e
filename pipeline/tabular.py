"""What a question gives back, as people want it: an Arrow table, pandas, or a list of dicts."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd


class Tabular:
    """The faces of a `table`."""

    __slots__ = ()
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_arrow(self) -> pa.Table:
        """As an Arrow table."""
        return self.table

    def to_pandas(self) -> "pd.DataFrame":
        """As a pandas DataFrame."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_list(self) -> list[dict[str, Any]]:
        """As one dict a row."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows
