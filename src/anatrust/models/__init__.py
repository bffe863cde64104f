"""Protocols and adapters for everything frozen that anatrust can use."""
