"""Harness: lm-evaluation-harness's own evaluator on a model with its heads on, base and tuned in one go.

It imports every room up to ``compare``, ``analysis`` and ``planning``; beside it are ``studies`` and ``generation``.
"""
