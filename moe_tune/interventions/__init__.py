"""Interventions: what a model answers when an expert, a set of them or a router's decision is another.

It imports every room up to ``compare``, ``analysis`` and ``planning``.
"""
