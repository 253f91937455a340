"""The student: retrained, rounded where it ships so, and judged."""
