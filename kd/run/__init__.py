"""A run: its settings, what it will cost, its folder and its numbers."""
