"""Training a stream of tasks into a run directory: sessions, the loop, folds and orders."""
