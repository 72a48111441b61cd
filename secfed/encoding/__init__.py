"""Real arrays to vectors of integers and back: flattening and fixed point."""
