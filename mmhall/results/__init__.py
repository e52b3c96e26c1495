"""Keep answers as they come, and say how sure one can be of what they show."""
