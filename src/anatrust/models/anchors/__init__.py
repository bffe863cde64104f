"""Anchor providers, one file each: who can say where an organ lies."""
