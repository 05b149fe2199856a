"""One rank of a job."""

from seen import leave

leave()
