"""The step of a net as one call of C++."""
