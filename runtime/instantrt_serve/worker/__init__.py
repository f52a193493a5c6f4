"""The engine worker: one process that owns one device and makes the pictures of many jobs on it."""
