"""The commands, one file per subject; :mod:`comel.app.cli` combines them. No file imports anything heavy at module level."""
