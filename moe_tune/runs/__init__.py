"""The run directory: what a run leaves behind, and how it is written so that nothing is ever half there."""
