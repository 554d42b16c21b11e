"""What an evaluation is made of: the pairs, who comes first, and the look at the pictures."""
