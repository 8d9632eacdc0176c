"""What three commands compute: the benchmark, the composition matrix, the tour."""
