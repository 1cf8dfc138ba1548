"""Gates: a base model with router heads on it; attach, freeze and prove it, state, detach. No Lightning, no data.

It imports ``base``, ``routing``, ``heads``, ``losses`` and ``models``.
"""
