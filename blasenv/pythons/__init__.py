"""The Python interpreters of an image, and what blasenv has put there."""
