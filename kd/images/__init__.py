"""Where images come from, and how they are split, augmented, mixed and batched."""
