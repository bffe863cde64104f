"""The experiments that show what holds, and the phantoms they need."""
