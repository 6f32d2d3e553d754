"""Pages and charts of a run as HTML."""
