"""Side-by-side benchmarks; each is a command that ends in a line with its name and figure."""
