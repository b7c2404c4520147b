"""What tests of the carbon service stand on: a clock to move, and a UK API that answers as it is told."""
