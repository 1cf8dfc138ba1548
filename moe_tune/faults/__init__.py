"""Faults tried on purpose: cases, the processes they run in, their table; the short ones are ``doctor --selftest``.

May import everything but the command line, which a case runs as a process of its own.
"""
