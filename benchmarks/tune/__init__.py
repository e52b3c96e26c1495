"""Tuning of strategies: choice of their options on pictures with known objects."""
