"""Masks of unlabelled photos as files: where photos come from, what is written, and what need not be done again."""
