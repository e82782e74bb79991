"""Files, folders, and data from outside: reading and writing with stated limits."""
