"""The tests; real servers in `servers`, real services in `services`."""
