"""HTTP doubles of the two engines, part of the product: the demo, the tests and the load tests rest on them.

They speak an engine's wire protocol, with a clock, slots, memory and faults of their own, and say that they are no language
model. They import nothing else of this package, so that a client and its double cannot share a mistake.
"""
