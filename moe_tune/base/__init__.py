"""What every room stands on: errors, strict YAML, published files, plug-in discovery, moved names, ranks, schedules.

It imports nothing of the package.
"""
