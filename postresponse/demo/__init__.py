"""One endpoint, three ways to commit it, measured on a real server: what `postresponse demo` runs.

`shop` is the endpoint, `server` runs it on uvicorn in a process of its own, `measurement` is the client that counts,
and `report` says what was counted. Needs the extra `demo`.
"""
