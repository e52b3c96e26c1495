"""Time strategies against plain `generate`, and the runner against bare calls."""
