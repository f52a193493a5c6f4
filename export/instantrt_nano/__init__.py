"""The nano checkpoint: InstantID's module classes at a size that runs anywhere, for tests and demos."""
