"""Where a bag's tiles lie to each other, found out once for all that asks: sums over surroundings, means, connected pieces.

Memory grows with the tiles and not with the slide: the tiles around one are a few runs of a list that is sorted by row and
column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from comel.nn.neighbours import cells_of

__all__ = ["Places"]

_BELOW_OR_RIGHT = ((1, 0), (-1, 1), (0, 1), (1, 1))


class Places:
    """The places of a bag's tiles.

    Args:
        coords: (M, 2) top-left corners of the tiles in any unit; M at least 1.
        radii: of the surroundings that will be asked for, in tiles.
    """

    def __init__(self, coords: Tensor, radii: Sequence[int]) -> None:
        with torch.inference_mode(False):  # that gradients may pass through sums over what is found here
            self._find(cells_of(coords.clone()), radii)

    def _find(self, cells: Tensor, radii: Sequence[int]) -> None:
        cells = cells - cells.min(dim=0).values
        most = max(radii)
        width = int(cells[:, 0].max()) + 1 + 2 * most  # free columns on either side
        key = cells[:, 1] * width + cells[:, 0] + most  # (M,)
        ordered, self._order = torch.sort(key, stable=True)
        self._runs: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for radius in radii:
            rows = [key + row * width for row in range(-radius, radius + 1)]
            self._runs[radius] = [
                (torch.searchsorted(ordered, row - radius), torch.searchsorted(ordered, row + radius, right=True))
                for row in rows
            ]
        self._numbers = {radius: sum((end - first for first, end in runs), -1) for radius, runs in self._runs.items()}
        self._edges = self._touching(ordered, width)

    def __len__(self) -> int:
        return len(self._order)

    def around(self, values: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        """Sum over the tiles at most ``radius`` columns and rows away, each itself left out, (M, C), and their number (M,).

        Tiles in one cell are around each other.
        """
        running = torch.cat([values.new_zeros(1, values.shape[1], dtype=torch.float64), values[self._order].double().cumsum(0)])
        total = -values.double()
        for first, end in self._runs[radius]:
            total = total + running[end] - running[first]
        return total.to(values.dtype), torch.as_tensor(self._numbers[radius])

    def mean(self, values: Tensor) -> Tensor:
        """Mean of each tile's values (M, C) and those of the tiles that touch it; 1 is among the radii."""
        total, number = self.around(values, 1)
        return (total + values) / (number + 1).unsqueeze(1)

    def pieces(self, chosen: Tensor) -> list[np.ndarray]:
        """How many tiles each connected piece of the chosen tiles has, largest first; corners connect.

        Args:
            chosen: (M, C) bool.

        Returns:
            the sizes of every column.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        selected = chosen.cpu().numpy()
        count, columns = selected.shape
        first, second = self._edges
        kept = selected[first] & selected[second]  # (E, C)
        edge, column = np.nonzero(kept)
        shape = (count * columns, count * columns)
        ends = first[edge] + column * count, second[edge] + column * count
        graph = coo_matrix((np.ones(len(edge), bool), ends), shape=shape)
        _, piece = connected_components(graph, directed=False)
        sizes = []
        for number, each in enumerate(piece.reshape(columns, count)):
            sizes.append(np.sort(np.unique(each[selected[:, number]], return_counts=True)[1])[::-1])
        return sizes

    def _touching(self, ordered: Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of tiles (E,), (E,) that connect all that touch."""
        index = torch.arange(len(ordered), device=ordered.device)
        pairs = [(index[:-1], index[1:], ordered[:-1] == ordered[1:])]  # tiles in one cell
        for column, row in _BELOW_OR_RIGHT:
            wanted = ordered + row * width + column
            found = torch.searchsorted(ordered, wanted).clamp_max(len(ordered) - 1)
            pairs.append((index, found, ordered[found] == wanted))
        first = torch.cat([one[there] for one, _, there in pairs])
        second = torch.cat([other[there] for _, other, there in pairs])
        return self._order[first].cpu().numpy(), self._order[second].cpu().numpy()
