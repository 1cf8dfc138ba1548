"""Reports: what tables, charts and pages are made with.

It takes frames and values, knows no run, and imports ``base``, ``routing`` and ``stats``.
"""
