"""Decode: settings, branches, the sampling loop, beams, the combination of log-probabilities."""
