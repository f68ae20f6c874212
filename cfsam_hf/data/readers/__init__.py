"""A module for each public data set, and for users' own annotations."""
