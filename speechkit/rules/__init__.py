"""Decision rules: from scores at each frame to events. They need only numpy, not torch."""
