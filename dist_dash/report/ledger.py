"""What a picture draws, written down while it is drawn: its CSV then holds the figure's numbers and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Ledger:
    """Rows of a CSV in long form.

    Args:
        columns: their names.
    """

    def __init__(self, *columns: str) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in columns}

    @property
    def data(self) -> dict[str, list[Any]]:
        """The columns, of equal length."""
        return self._columns

    def add(self, *values: Any) -> None:
        """One row, in the order of the columns."""
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)

    def line(self, axes: Axes, panel: str, label: str, x: ArrayLike, y: ArrayLike, **style: Any) -> None:
        """Draw a line and write down its points: columns are panel, label, x, y."""
        along, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
        axes.plot(along, values, label=style.pop("shown_as", label), **style)
        for one, other in zip(along.tolist(), values.tolist(), strict=True):
            self.add(panel, label, one, other)


def numbers(values: Sequence[Any]) -> list[float]:
    """JSON's numbers as floats; NaN for null and for what is no number."""
    return [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else float("nan") for v in values]
