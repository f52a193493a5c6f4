"""Nano's small face networks: where they come from, and the contract around them."""
