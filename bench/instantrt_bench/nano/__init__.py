"""What the trained nano checkpoint can do, measured through the runtime."""
