"""Training crops: where they are cut, how they are changed, and their targets."""
