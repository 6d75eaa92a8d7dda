"""The cohort: its manifest, splits, classes, tasks and the bags of its cases."""
