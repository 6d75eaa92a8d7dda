"""What a run, or several side by side, came to: one HTML page and a model card. See :func:`comel.reporting.write.write_report`.

Nothing is imported up here, so that ``comel --help`` stays quick.
"""
