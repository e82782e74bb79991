"""Decision rules: from scores at each frame to events. They need numpy alone, no torch."""
