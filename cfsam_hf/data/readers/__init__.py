"""Readers: a module for each public data set, and modules for users' own annotations."""
