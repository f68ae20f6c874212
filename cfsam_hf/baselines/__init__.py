"""Baselines for comparison: a classical method without weights, and a plain U-Net."""
