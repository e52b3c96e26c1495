"""The comparison page in a real browser."""
