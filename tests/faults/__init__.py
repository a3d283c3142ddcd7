"""Fault injection: every call that one request makes fails once, in every way that it can; pairs are sampled.

A request runs once without faults, which numbers the calls that it makes: of the database driver, the unit of work, the
server, the hooks, the options and the application's own steps. Then it runs once more for each call and each way to
fail, and after each run the promises of the specification are checked (`rules.py`), against the database's own truth
and against a strict server. A call is named and counted by its name (`dbapi.commit#1`), not by its place among all: the
name stays true where a fault changes what follows.

The ways to fail (`kinds.py`) differ in what the caller cannot see:

- **before**: it raises, and did nothing; the error is definite (the disk is full), or transient (the file is locked).
- **after**: it did it, and then raises; the answer is lost, by an error without a code, a timeout or an exit.
- **dead**: before or after, and the connection is gone: each later call on it raises as well.
- nothing raises, but just then the request is **cancelled**, or the client **leaves**.

Left out, because no caller could be right about it: a commit that succeeds and is answered with the numbered error of a
refusal, and the ordinary error of a unit of work whose `commit` has done it (it has `CommitInDoubt` to say so). A
`KeyboardInterrupt` is injected under WSGI and on trio only: asyncio gives up its loop at once.

`pytest tests/faults --long=full -s` runs all of it and prints the table of outcomes, with the seed of the pairs;
POSTRESPONSE_FAULTS_SEED gives another one. Shorter runs have every shape where a request is cheap, and the shapes that
differ most where it needs a database. A failure names a case and its faults: `python -m tests.faults CASE FAULTS` runs
them again and prints every call.
"""
