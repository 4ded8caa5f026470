"""Data sources: one small file per layout, all giving the interface of base.py."""
