"""How a merge is carried out: what one block of rows takes, and who works on which when.

`local` runs on this machine and `ray` on a Ray cluster. Both merge by `job` and hand what they have
to `recorder`, so that they write the same bytes.
"""
