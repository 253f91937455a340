"""How images lie on disk: folders, tar shards, and what people call their parts and classes."""
