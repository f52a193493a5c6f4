"""Everything that only a real GPU can tell, in one command of ten minutes for any machine with an NVIDIA driver."""
