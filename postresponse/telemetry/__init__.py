"""Telemetry: what observers make of exchanges and jobs for OpenTelemetry, Prometheus, Sentry, browsers and logs.

Each is an `Observer`, given to a middleware as `observers=[...]`, and stands in a module of its own that alone imports
its library.
"""
