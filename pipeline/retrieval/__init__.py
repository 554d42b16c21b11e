"""What a query is made of: the question, the nearest rows, the rerank, and the answer as it is shown."""
