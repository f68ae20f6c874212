"""Checkpoints to start from."""
