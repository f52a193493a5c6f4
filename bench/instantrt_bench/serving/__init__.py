"""A server under load: nothing lost, nothing mixed up, nobody starved, no credit wrong."""
