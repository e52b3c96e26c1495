"""Where a model lies, how it is loaded, and what tells it from others."""
