"""The ground floor, without networks or images: errors, files, checkpoints, processes."""
