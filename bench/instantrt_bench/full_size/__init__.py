"""Full-size SDXL with random weights: proof that export and build hold at real dimensions, without a download."""
