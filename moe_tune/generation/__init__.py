"""Generation: what base and tuned models say behind a prompt, side by side, where they part and by which experts.

It imports every room up to ``compare``, ``analysis`` and ``planning``; beside it are ``studies`` and ``harness``.
"""
