"""Settings: a command is parsed into settings, then run; what was wrong with it is said in one message.

It imports every room up to ``callbacks`` and ``tracking``.
"""
