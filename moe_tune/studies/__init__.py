"""Studies: many runs of one command: experiments, grids and sweeps.

It imports every room up to ``compare``, ``analysis`` and ``planning``.
"""
