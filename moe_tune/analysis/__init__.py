"""The verb ``analyze``: which experts a model uses, how sure its gate is, and how well its experts do."""
