"""Who is served next: a pure function from a state to a decision, and its simulation."""
