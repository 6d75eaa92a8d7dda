"""Scores of bags, instances and patients; calibration, thresholds and the continual matrices."""
