"""Reproduction of published figures: declared runs on a released model, and a page that compares them."""
