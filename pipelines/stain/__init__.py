"""Staining: measured, normalised and shifted."""
