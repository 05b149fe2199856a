"""How the commands speak."""
