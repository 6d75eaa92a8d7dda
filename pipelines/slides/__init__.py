"""Slides and how they are read: formats, levels, scanned areas and native decoding."""
