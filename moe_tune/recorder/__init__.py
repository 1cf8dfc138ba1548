"""Recorder: what routers do, and our auxiliary losses, in anybody's training loop; callbacks for the trainers.

It imports ``base``, ``routing``, ``stats``, ``losses``, ``metrics``, ``models`` and ``gates``.
"""
