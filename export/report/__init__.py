"""What a person looks at: figures, pages and comparisons."""
