"""What has no subject of its own: files, HDF5, settings, devices, workers, text. Imports nothing of comel but its errors."""
