"""Routers that only translate HTTP; the work is in :mod:`service.predictions.work`."""
