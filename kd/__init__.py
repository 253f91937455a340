"""What is learned from: data, teacher, stored outputs, losses, evaluation, run folder."""
