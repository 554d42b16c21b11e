"""What a schedule is made of: when, one tick and its steps, the book of all ticks, and who is told."""
