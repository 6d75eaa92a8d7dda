"""The commands, one file per subject; :mod:`comel.app.cli` puts them together. No file imports anything heavy at its top."""
