"""The sub-commands of `cfsam`, a module each."""
