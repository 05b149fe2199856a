"""What is read from a machine that runs."""
