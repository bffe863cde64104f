"""Anatomy from one labelled reference (RAU): the bank, the reasoners, and masks by a language model's tokens."""
