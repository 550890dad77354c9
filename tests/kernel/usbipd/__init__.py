"""A package, so that its guests end with its last test: they would take a processor from all tests after them."""
