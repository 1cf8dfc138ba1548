"""Tuner: the LightningModule that trains router heads, and what it answers, calibrates and counts with.

It imports every room from ``base`` to ``answer_path`` and ``runs``.
"""
