"""The bag: its file format, its feature contract, its geometry, its scales, and the formats of other tools."""
