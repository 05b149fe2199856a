"""The commands, one module or package each, named as the command."""
