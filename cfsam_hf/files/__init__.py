"""Files that appear whole or not at all, JSON and CSV, and recognising the package's own results."""
