"""Rivals: networks that a user would take without a search."""
