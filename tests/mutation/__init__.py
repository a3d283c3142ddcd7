"""Mutation testing of the core and the adapters: each small change of their code has to make a test fail.

`python -m tests.mutation` runs mutmut (the extra `mutation`; its configuration stands in pyproject) and then compares
what survived with `survivors.toml`, where each survivor is explained. It ends with 0 if no other one is left, and says
which explanations are out of date. It takes about an hour on two cores, and needs Python 3.12 or later: on 3.11 the
interpreter itself crashes under mutmut's call tracking. `--report` only compares, with what the last run left.

A change that alters nothing but the letters of a sentence for people (a message, a line of a log) is counted apart, and
not explained one by one: tests look for what a user has to find there, and not for its letters.
"""
