"""Planning: what memory, disk and time a configuration will need, before anything is loaded.

It imports every room up to ``settings``.
"""
