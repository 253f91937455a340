"""The teacher: loaded, checked, and its outputs stored."""
