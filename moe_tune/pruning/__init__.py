"""Pruning: which experts go, by which criterion, and what a model without them still can."""
