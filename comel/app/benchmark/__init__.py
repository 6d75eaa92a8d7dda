"""Open benchmarks of continual learning: streams that anyone can generate, and one table for all strategies and models.

A suite makes bags and a manifest from a seed; the rows of ``configs/benchmark.yaml`` are trained on them by the same code that
trains a cohort, each into its own run directory. Part of the composition root.
"""
