"""Tiles: planned, decoded, encoded and measured."""
