"""Torch modules of InstantID that no library ships."""
