"""Diagnosis of a model: how it hallucinates, and which mechanisms that strategies act on it has."""
