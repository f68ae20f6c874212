"""Slides on many machines: the regions of [`cfsam_hf.inference.slide_run`], done by Ray.

Ray is imported only when a run begins; it comes with the extra `cluster`.
"""
