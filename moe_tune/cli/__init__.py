"""The command line: ``main``, and one file per verb. It may import every room."""
