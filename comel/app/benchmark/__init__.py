"""Open benchmarks of continual learning: streams anyone can make, and one table for all strategies and models.

A suite makes bags and a manifest from a seed; the rows of ``configs/benchmark.yaml`` are trained on them by the same code that
trains a cohort, each into a run directory of its own. Part of the composition root.
"""
