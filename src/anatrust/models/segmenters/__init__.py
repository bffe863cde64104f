"""Frozen segmenters, one file each; :func:`anatrust.models.registry.load_segmenter` makes them by name."""
