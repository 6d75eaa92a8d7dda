"""The composition root: the command line, its commands, and the same from Python.

It may import everything; nothing imports it.
"""
