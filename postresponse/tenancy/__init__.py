"""Limits for each tenant, in front of an application: who is served, who waits, and who is sent away."""

from postresponse.tenancy.limits import Load

__all__ = ["Load"]
