"""The latency table, measured."""
