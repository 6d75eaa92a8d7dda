"""A cohort's extraction by several workers, processes and hosts on one output folder.

They share files in ``OUT/.extract``: ``claims/`` (who works on which slide), ``outcomes/`` (its result) and
``workers/`` (what each process is doing). There is no server; a shared file system is enough.
"""
