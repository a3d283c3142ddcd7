"""What `postresponse trace` is made of: a server in a process of its own, what it reports, and one timeline of both.

Both processes read the monotonic clock of one machine, so that their times can be put in one order.
"""
