"""What goes into containers from outside: the start-up code, never a number."""
