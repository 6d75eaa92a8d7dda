"""The results of one or several runs: one HTML page and a model card. See :func:`comel.reporting.write.write_report`.

Nothing is imported here, so that ``comel --help`` stays fast.
"""
