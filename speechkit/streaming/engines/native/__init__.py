"""A net's step as one call of C++."""
