"""Every picture that the package makes."""
