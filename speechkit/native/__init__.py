"""The C++ libraries: those of the wheel, or compiled on first use."""
