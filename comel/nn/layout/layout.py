"""The layout of a batch: which instances are real, to which bag each belongs, and where each lies on its slide.

Instances of all bags lie in one list of N rows without padding (*packed*). Everything that a mixer asks, such as squares,
neighbours or an order along a curve, is found once and kept, so that all blocks of a network share it. Cells are counted
from each bag's smallest column and row: a slide that is moved as a whole is the same slide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from comel.bags.geometry import tile_cells
from comel.errors import BagError
from comel.nn.layout.curve import hilbert_index
from comel.nn.layout.segments import Segments

__all__ = ["Layout", "PerBag"]

Found = TypeVar("Found")
PerBag = int | tuple[int, ...]
"""A number for all bags, or one for each."""


class Layout:
    """See the module.

    Args:
        shape: (B, M), the bags of the batch and the instances of the longest.
        coords: (B, M, 2) top-left corners (x, y) of the tiles in any unit that is the same for a bag, or None.
        mask: (B, M) bool, True where there is an instance; None where all bags have M.
        device: of the batch.

    Attributes:
        bags: how many, B.
        bag: (N,) the bag of each packed row.
        counts: (B,) instances of each bag.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        coords: Tensor | None = None,
        mask: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.bags, self._length = shape
        self._mask = mask
        real = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask
        self.counts = real.sum(dim=1)
        self.bag = torch.repeat_interleave(torch.arange(self.bags, device=real.device), self.counts)
        self._coords = None if coords is None else self.pack(coords)
        self._found: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, x: Tensor, coords: Tensor | None = None, mask: Tensor | None = None) -> Layout:
        """The layout of instances x (B, M, ...)."""
        return cls((x.shape[0], x.shape[1]), coords, mask, x.device)

    def __len__(self) -> int:
        return len(self.bag)

    @property
    def within(self) -> Segments:
        """The bags as segments; those without an instance are left out."""
        return self._once("within", lambda: Segments(self.bag, self.bag))

    @property
    def placed(self) -> bool:
        """Whether the bags have coordinates."""
        return self._coords is not None

    def pack(self, x: Tensor) -> Tensor:
        """(B, M, ...) -> (N, ...), the real rows."""
        return x.reshape(-1, *x.shape[2:]) if self._mask is None else x[self._mask]

    def unpack(self, rows: Tensor) -> Tensor:
        """(N, ...) -> (B, M, ...), 0 where there is no instance."""
        if self._mask is None:
            return rows.view(self.bags, self._length, *rows.shape[1:])
        return rows.new_zeros(self.bags, self._length, *rows.shape[1:]).masked_scatter(
            self._mask.view(*self._mask.shape, *[1] * (rows.dim() - 1)), rows
        )

    @property
    def cells(self) -> Tensor:
        """Column and row of each tile, (N, 2) int64 from 0 in each bag.

        Raises:
            BagError: the bags have no coordinates.
        """
        return self._once("cells", self._cells)

    @property
    def box(self) -> Tensor:
        """Columns and rows of the box around each bag's tiles, (B, 2); 0 for a bag without tiles."""

        def find() -> Tensor:
            index = self.bag.unsqueeze(1).expand(-1, 2)
            return self.cells.new_zeros(self.bags, 2).scatter_reduce(0, index, self.cells + 1, "amax")

        return self._once("box", find)

    @property
    def place_in_list(self) -> Tensor:
        """Place of each row in its bag's list, (N,) from 0."""
        return self.within.rank

    def neighbours_in_square(self, side: int, square: PerBag) -> Tensor:
        """As :meth:`neighbours`, and N too where a neighbour lies in another square of ``square`` x ``square`` cells."""

        def find() -> Tensor:
            table, of = self.neighbours(side), self.squares(square).of
            same = torch.cat([of, of.new_full((1,), -1)])[table] == of.unsqueeze(1)
            return torch.where(same, table, len(self))

        return self._once(("neighbours in square", side, square), find)

    def neighbours(self, side: int) -> Tensor:
        """Which rows lie in the ``side`` x ``side`` cells around each tile, (N, side^2).

        Row by row from the top left, the tile itself in the middle; N where there is none. Of several tiles in one cell, the
        first of the bag.

        Args:
            side: odd.
        """
        return self._once(("neighbours", side), lambda: self._around(side))

    def squares(self, side: PerBag) -> Segments:
        """Tiles by the square of ``side`` x ``side`` cells they lie in, counted from the smallest cell; row by row."""
        return self._once(("squares", side), lambda: Segments(self._key(self.cells // self.per_row(side)), self.bag))

    def place_in_square(self, side: PerBag) -> Tensor:
        """Place of each tile in its square, row by row, (N,) from 0 to side^2 - 1."""
        sides = self.per_row(side)
        inside = self.cells % sides
        return inside[:, 1] * sides.squeeze(1) + inside[:, 0]

    def square_cells(self, side: PerBag) -> Tensor:
        """Column and row of each square among the squares, (G, 2)."""
        return self._once(("square cells", side), lambda: _first(self.squares(side), self.cells // self.per_row(side)))

    def neighbouring_squares(self, side: PerBag, reach: int = 1) -> Tensor:
        """Which squares lie at most ``reach`` squares away, itself among them, (G, (2 reach + 1)^2); -1 where there is none."""

        def find() -> Tensor:
            squares = self.squares(side)
            span = 2 * reach + 1
            return self._look_up(self.square_cells(side), squares.bag, squares.keys, span, missing=-1)

        return self._once(("neighbouring squares", side, reach), find)

    def neighbouring_regions(self, side: PerBag, reach: int = 1) -> Tensor:
        """Which of :meth:`regions` lie at most ``reach`` regions away, itself among them, (G, K); -1 where there is none.

        Squares around a square, or without coordinates the stretches of the list before and after a stretch.
        """
        if self.placed:
            return self.neighbouring_squares(side, reach)

        def find() -> Tensor:
            runs, device = self.regions(side), self.bag.device
            own = torch.arange(len(runs), device=device).unsqueeze(1)  # (G, 1)
            beside = own + torch.arange(-reach, reach + 1, device=device)  # (G, K)
            there = (beside >= 0) & (beside < len(runs))
            there &= runs.bag[beside.clamp(0, max(len(runs) - 1, 0))] == runs.bag[own]
            return torch.where(there, beside, -1)

        return self._once(("neighbouring regions", side, reach), find)

    def along_regions(self, side: int, span: int) -> Tensor:
        """The rows up to ``span // 2`` places before and after each row in its region, (N, span); N where there is none.

        The places of a square are its cells, row by row, holes among them; without coordinates they are those of the list. Of
        several tiles in one cell, the first of the bag stands for them, but each tile for itself.

        Args:
            side: of the regions.
            span: odd.
        """

        def find() -> Tensor:
            of = self.regions(side).of
            place = self.place_in_square(side) if self.placed else self.regions(side).rank
            key = of * side**2 + place
            ordered, order = torch.sort(key, stable=True)
            table: Tensor = key.new_full((len(key), span), len(key))
            for number in range(span):
                offset = number - span // 2
                inside = (place + offset >= 0) & (place + offset < side**2)
                at = torch.searchsorted(ordered, key + offset).clamp_max(len(key) - 1)
                table[:, number] = torch.where(inside & (ordered[at] == key + offset), order[at], len(key))
            table[:, span // 2] = torch.arange(len(key), device=key.device)
            return table

        return self._once(("along regions", side, span), find)

    def crossing_squares(self, side: PerBag) -> Tensor:
        """Which squares lie in the same row or column of squares, itself once among them, (G, K); -1 where there is none."""

        def find() -> Tensor:
            cells, bag = self.square_cells(side), self.squares(side).bag
            width = self._width()
            row, row_real = _members(Segments(bag * width + cells[:, 1], bag))
            column, column_real = _members(Segments(bag * width + cells[:, 0], bag))
            column_real &= column != torch.arange(len(bag), device=bag.device).unsqueeze(1)
            return torch.cat([torch.where(row_real, row, -1), torch.where(column_real, column, -1)], dim=1)

        return self._once(("crossing squares", side), find)

    def strided(self, step: PerBag) -> Segments:
        """Tiles whose columns and rows leave the same rest when divided by ``step``."""
        return self._once(("strided", step), lambda: Segments(self._key(self.cells % self.per_row(step)), self.bag))

    def dilated(self, side: int, interval: PerBag) -> Segments:
        """Tiles ``interval`` cells apart, ``side`` x ``side`` of them, from one square of ``side * interval`` cells."""

        def find() -> Segments:
            step = self.per_row(interval)
            squares, phase = self.cells // (side * step), self.cells % step
            most = int(step.max()) if len(self) else 1
            return Segments((self._key(squares) * most + phase[:, 1]) * most + phase[:, 0], self.bag)

        return self._once(("dilated", side, interval), find)

    def place_in_dilated(self, side: int, interval: PerBag) -> Tensor:
        """Row and column of each tile among those of its dilated square, (N, 2) from 0 to side - 1, rows first."""
        step = self.per_row(interval)
        return (self.cells % (side * step) // step).flip(1)

    def bins(self, columns: int, rows: int) -> Segments:
        """Tiles by which of ``columns`` x ``rows`` bins of their bag's box they lie in: bin = floor(cell * bins / box).

        ``keys`` modulo ``columns * rows`` are the bins, row by row; bins without a tile are left out.
        Without coordinates, each list is cut into as many stretches.
        """

        def find() -> Segments:
            if not self.placed:
                place = self.place_in_list * (columns * rows) // self.counts[self.bag]
                return Segments(self.bag * (columns * rows) + place, self.bag)
            box = self.box[self.bag]
            column, row = self.cells[:, 0] * columns // box[:, 0], self.cells[:, 1] * rows // box[:, 1]
            return Segments((self.bag * rows + row) * columns + column, self.bag)

        return self._once(("bins", columns, rows), find)

    def runs(self, length: PerBag) -> Segments:
        """Stretches of ``length`` consecutive rows of each bag's list."""
        return self._once(("runs", length), lambda: self._parts(self.place_in_list // self.per_row(length).squeeze(1)))

    def strided_runs(self, step: PerBag) -> Segments:
        """Rows of each bag's list whose places leave the same rest when divided by ``step``."""
        return self._once(("strided runs", step), lambda: self._parts(self.place_in_list % self.per_row(step).squeeze(1)))

    def regions(self, side: PerBag) -> Segments:
        """Squares of ``side`` x ``side`` cells, or without coordinates stretches of side^2 rows of the list."""
        if self.placed:
            return self.squares(side)
        return self.runs(side * side if isinstance(side, int) else tuple(each * each for each in side))

    def sides(self, side: int, most: int) -> PerBag:
        """Sides of squares that grow with the bag: ``side`` doubled until ``most`` full squares hold a bag's instances.

        A bag's own does not depend on the bags beside it.
        """

        def grown(count: int) -> int:
            own = side
            while own**2 * most < count:
                own *= 2
            return own

        return self.per_bag(grown)

    def per_bag(self, rule: Callable[[int], int]) -> PerBag:
        """A number that follows from how many instances a bag has; one number where it is the same for all bags."""
        found = [rule(count) for count in self.counts.tolist()]
        return found[0] if len(set(found)) == 1 else tuple(found)

    def lines(self, axis: int) -> Segments:
        """Tiles of one row of the slide (``axis`` 0) or of one column (``axis`` 1)."""
        return self._once(("lines", axis), lambda: Segments(self._line_key(axis), self.bag))

    def stretches(self, axis: int) -> Segments:
        """Tiles of one row (``axis`` 0) or column (``axis`` 1) that follow each other without a hole.

        :attr:`Segments.order` has them from left to right, or from top to bottom, only through :meth:`along`.
        """

        def find() -> Segments:
            order = self.along(axis)
            line, along = self._line_key(axis)[order], self.cells[order, axis]
            new = torch.ones(len(order), dtype=torch.bool, device=order.device)
            new[1:] = (line[1:] != line[:-1]) | (along[1:] > along[:-1] + 1)
            key = torch.empty_like(order)
            key[order] = new.cumsum(0)
            return Segments(key, self.bag)

        return self._once(("stretches", axis), find)

    def along(self, axis: int) -> Tensor:
        """All rows sorted by line, then by their place on it, (N,): row by row (``axis`` 0), or column by column (1)."""

        def find() -> Tensor:
            order = torch.argsort(self.cells[:, axis], stable=True)
            return order[torch.argsort(self._line_key(axis)[order], stable=True)]

        return self._once(("along", axis), find)

    def curve(self) -> Tensor:
        """All rows, bag by bag, along a Hilbert curve over the slide, (N,); without coordinates, as the lists have them."""

        def find() -> Tensor:
            if not self.placed:
                return torch.arange(len(self), device=self.bag.device)
            order = torch.argsort(hilbert_index(self.cells), stable=True)
            return order[torch.argsort(self.bag[order], stable=True)]

        return self._once("curve", find)

    def relative(self) -> Tensor:
        """Where each tile's centre lies in its bag's box, (N, 2) float64 in (0, 1): from left to right, from top to bottom."""
        return self._once("relative", lambda: (self.cells.double() + 0.5) / self.box[self.bag].double())

    def require_coords(self, who: str, instead: str) -> None:
        """Refuse bags without coordinates.

        Args:
            who: what needs them.
            instead: what the user can take in its place.

        Raises:
            BagError: as said.
        """
        if not self.placed:
            raise BagError(f"{who} needs coordinates, and a bag has none", instead)

    def _cells(self) -> Tensor:
        self.require_coords("a layout by place", "extract the slide again, or choose a mixer that works on lists")
        assert self._coords is not None
        coords = self._coords.detach().cpu()
        found = [torch.from_numpy(tile_cells(part.numpy())) for part in coords.split(self.counts.tolist())]
        return torch.cat([part - part.amin(dim=0) if len(part) else part for part in found]).to(self._coords.device)

    def _width(self) -> int:
        return int(self.cells.max()) + 1 if len(self) else 1

    def per_row(self, value: PerBag) -> Tensor:
        """The number of each row's bag, (N, 1)."""
        if isinstance(value, int):
            return self.bag.new_full((1, 1), value).expand(len(self), 1)
        return torch.tensor(value, device=self.bag.device)[self.bag].unsqueeze(1)

    def _parts(self, part: Tensor) -> Segments:
        """Segments of equal bag and ``part`` (N,)."""
        return Segments(self.bag * (int(part.max()) + 1 if len(part) else 1) + part, self.bag)

    def _key(self, cells: Tensor) -> Tensor:
        """One integer for bag, row and column, in this order of weight."""
        width = self._width()
        return (self.bag * width + cells[:, 1]) * width + cells[:, 0]

    def _line_key(self, axis: int) -> Tensor:
        return self.bag * self._width() + self.cells[:, 1 - axis]

    def _around(self, side: int) -> Tensor:
        if side % 2 == 0:
            raise ValueError(f"side is {side}; give an odd number")
        key = self._key(self.cells)
        ordered, order = torch.sort(key, stable=True)
        found = self._look_up(self.cells, self.bag, ordered, side, missing=-1)
        return torch.where(found < 0, len(self), order[found.clamp_min(0)] if len(self) else found)

    def _look_up(self, cells: Tensor, bag: Tensor, ordered: Tensor, side: int, missing: int) -> Tensor:
        """Places in the sorted keys ``ordered`` of the side x side cells around each cell, ``missing`` where there is none."""
        width, reach, total = self._width(), side // 2, len(ordered)
        table = cells.new_empty(len(cells), side * side)
        for number in range(side * side):
            column = cells[:, 0] + number % side - reach
            row = cells[:, 1] + number // side - reach
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < width)
            wanted = (bag * width + row) * width + column
            at = torch.searchsorted(ordered, wanted).clamp_max(max(total - 1, 0))
            there = inside & (ordered[at] == wanted) if total else inside
            table[:, number] = torch.where(there, at, missing)
        return table

    def _once(self, name: Hashable, find: Callable[[], Found]) -> Found:
        if name not in self._found:
            with torch.no_grad(), torch.inference_mode(False):  # what is kept may serve a pass with gradients
                self._found[name] = find()
        found: Found = self._found[name]
        return found


def _first(segments: Segments, values: Tensor) -> Tensor:
    """The value of each segment's first row, (N, ...) -> (G, ...)."""
    return values[segments.order[segments.starts]]


def _members(segments: Segments) -> tuple[Tensor, Tensor]:
    """All rows of each row's own segment, (N, n), and which of them are real, (N, n)."""
    rows, real = segments.rows(torch.arange(len(segments), device=segments.of.device))
    return rows[segments.of], real[segments.of]
