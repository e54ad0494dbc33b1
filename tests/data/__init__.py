"""The data are what they say, and the same on every run."""
