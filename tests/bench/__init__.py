"""
Side-by-side benchmarks: `python -m tests.bench [tenancy] [--json FILE] [--quick]`.

Ours and the reference alternate in one run, so what the machine does to one
it does to the other; what is compared is the ratio of neighbours.
"""
