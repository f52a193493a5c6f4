"""The networks of the contracts as torch modules: ``forward`` takes the contract's inputs in order."""
