"""Telling another system that a job has ended: signed, repeated until it is taken, and only to hosts that the settings name."""
