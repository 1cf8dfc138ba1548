"""Statistics: every estimator, interval and test once, as pure functions on arrays and frames.

It imports ``base`` and ``routing``.
"""
