"""What the package costs, beside what others cost in the same run: `python -m tests.benchmarks`.

`runner.py` says how it is measured, `asgi.py` and `wsgi.py` what the fake servers do, `suites.py` what is compared.
"""
