"""Recorder: what routers do, and our auxiliary losses, in anybody's training loop; for Trainer and Lightning, callbacks.

It imports ``base``, ``routing``, ``stats``, ``losses``, ``metrics``, ``models`` and ``gates``.
"""
