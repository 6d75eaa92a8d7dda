"""The command line's commands, one file a subject; :mod:`comel.cli` puts them together. Nothing heavy is imported up here."""
