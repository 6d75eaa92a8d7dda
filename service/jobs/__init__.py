"""Predictions that take a while: accepted as rows of the database, done by killable worker processes, never lost."""
