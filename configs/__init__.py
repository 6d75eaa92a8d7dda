"""Runnable experiments, one YAML file each."""
