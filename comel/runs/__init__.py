"""The run directory and everything in it: settings, versions, weights, checkpoints, events."""
