"""Tracking: everything that goes to W&B.

It imports every room up to ``tuner``, and knows no callback.
"""
