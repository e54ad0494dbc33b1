"""Models against independent ones: Hugging Face's and torch's, on tiny random weights."""
