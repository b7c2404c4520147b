"""Models: the store that they come from, and onnxruntime that runs them."""
