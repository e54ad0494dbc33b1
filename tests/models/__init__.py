"""What the models promise beyond parity: sizes, first weights, errors."""
