"""Predictions: the work, the folder of one, and the store of all."""
