"""The conformance kit: what a server really does around the end of a response, on this machine, with this application.

It starts each server from its command line with an application of its own (`served`), asks it over real sockets
(`checks`), and holds what it finds against what the README promises (`expected`).
"""

from postresponse.testing.conformance.expected import EXPECTED, Expected
from postresponse.testing.conformance.running import Finding, Verdict, conformance

__all__ = ["EXPECTED", "Expected", "Finding", "Verdict", "conformance"]
