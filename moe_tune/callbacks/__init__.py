"""What a run writes down while it goes, one callback per file."""
