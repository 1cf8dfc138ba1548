"""Export: what a run has come to, to be taken elsewhere: a router card, or a stock checkpoint it is folded into.

It imports every room up to ``settings``.
"""
