"""Predictions and localisation maps over HTTP."""
