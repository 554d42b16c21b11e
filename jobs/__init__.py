"""One thin script per thing a person does."""
