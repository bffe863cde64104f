"""What is known about organs and structures, as data."""
