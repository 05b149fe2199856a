"""Thread counts of libraries that are loaded already: in this process, and in another one. Never prints."""

from __future__ import annotations

from blasenv.live.following import Follower as Follower, follow as follow
from blasenv.live.refreshing import Change as Change, Refreshed as Refreshed, refresh as refresh
