"""What ships with a checkpoint, as flat siblings that import nothing else of the package."""
