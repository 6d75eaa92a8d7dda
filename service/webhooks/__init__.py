"""Notifying another system that a job has ended: signed, repeated until accepted, and only to hosts in the settings."""
