"""Benchmarks: Quatrain beside what a user would pick instead, on one machine, in one run.

How it reads, top down: :mod:`registry` lists the cases, which the files of :mod:`measurements` declare, one file for
each kind of measurement. :mod:`runner` starts one process after another, a contender in each (:mod:`worker`), so that
everyone has an allocator of his own and a crash, a timeout or a missing library costs one row. A contender passes its
:mod:`gate` or its figures don't count. :mod:`results` keeps a JSON file for each case, :mod:`floor` puts beside the
figures what the hardware would allow, and :mod:`table` makes `docs/benchmarks.md` from the files and from nothing else.
"""
