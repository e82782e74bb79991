"""Scripts that draw the pictures of README.md and docs/."""
