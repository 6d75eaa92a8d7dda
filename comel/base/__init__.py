"""Shared foundations: files, HDF5, settings, devices, workers, text. Imports nothing from comel except its errors."""
