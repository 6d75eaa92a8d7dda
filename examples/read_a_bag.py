"""What a bag holds: the features of a slide's tiles, where each tile lies, and how the features were made.

    python read_a_bag.py practice/bags/colon-01.h5

Feature files of TRIDENT, CLAM and STAMP are read in the same way.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from comel.bags.foreign import read_any_bag


def describe(path: Path) -> list[str]:
    """Lines about a feature file."""
    bag = read_any_bag(path, verify=True)  # verify: compare the arrays with the checksum in the file
    made = bag.contract
    lines = [
        f"slide      {bag.slide_id}",
        f"features   {bag.features.shape[0]} tiles of {bag.features.shape[1]} numbers, {bag.features.dtype}",
        f"encoder    {made.encoder or 'not stated'}",
        f"tiles      {made.tile_size} px at {made.mpp} um/px",
    ]
    if bag.coords is not None and bag.geometry is not None:
        tiles, (x, y) = bag.geometry, bag.coords[0]  # the corner, in level-0 pixels
        centre = (x + tiles.tile_width / 2) * tiles.level0_mpp_x, (y + tiles.tile_height / 2) * tiles.level0_mpp_y
        lines.append(f"first tile at ({x}, {y}) px of level 0; its centre is at ({centre[0]:.0f}, {centre[1]:.0f}) um")
    if bag.labels is not None:
        counted = {
            name: int(np.sum(bag.labels == label)) for label, name in ((1, "positive"), (0, "negative"), (-1, "unknown"))
        }
        lines.append("labels     " + ", ".join(f"{count} {name}" for name, count in counted.items()))
    lines += [f"measured   {name}, mean {values.mean():.2f}" for name, values in bag.quality.items()]
    lines += [f"note       {note}" for note in bag.notes]
    return lines


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python read_a_bag.py BAG.h5")
    print("\n".join(describe(Path(sys.argv[1]))))
