"""What is learned from: images, a teacher, losses and training."""
