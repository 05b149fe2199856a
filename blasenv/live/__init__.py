"""Thread counts of libraries that are loaded already: in this process, and in another one. Never prints."""

from __future__ import annotations

from blasenv.live.follow import follow as follow
from blasenv.live.refresh import Change as Change
from blasenv.live.refresh import Refreshed as Refreshed
from blasenv.live.refresh import refresh as refresh
