"""Which voxels contain the structure, at a chosen risk: random-walk conformal prediction sets."""
