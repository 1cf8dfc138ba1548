"""Is the change real: paired statistics over run directories, tables and the HTML report."""
