"""What a person looks at: figures, pages and comparisons."""

import os

# matplotlib takes the one of a notebook, or of a desktop, for its own, and may not have it.
os.environ["MPLBACKEND"] = "agg"
