"""A cohort's extraction by several workers, processes and hosts on one output folder.

What they share are files in ``OUT/.extract``: ``claims/`` (who works on which slide), ``outcomes/`` (what became of it) and
``workers/`` (what each process does now). There is no server; a shared file system is enough.
"""
