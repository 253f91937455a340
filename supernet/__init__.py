"""What can be built: search space, students, shared weights and alpha."""
