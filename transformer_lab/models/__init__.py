"""Six Transformers, one readable file each: which parts of the package each is made of."""
