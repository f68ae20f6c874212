"""Training crops: where they are cut, how they are augmented, and their targets."""
