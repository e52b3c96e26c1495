"""Analyse answers."""
