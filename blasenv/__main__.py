"""``python -m blasenv``: the command, also where its script is not on PATH."""

from .cli import main

raise SystemExit(main())
