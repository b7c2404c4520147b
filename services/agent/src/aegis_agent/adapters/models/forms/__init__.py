"""What a model's tool takes and gives: plain tensors, or what its bundle says."""
