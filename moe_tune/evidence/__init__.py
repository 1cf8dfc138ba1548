"""What routing tables say and how surely: estimates, bounds, permutation nulls, and the data frames made of them."""
