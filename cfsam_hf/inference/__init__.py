"""Images through a pipeline into files, without printing."""
