"""The student for a budget: candidates, their order, the pick, its files."""
