"""The vocabulary of USB: pure values, no I/O, standard library alone.

A **transfer** moves data over one endpoint; its **completion** says how it ended. An **endpoint** is its address with
the direction bit (0x81). Lengths are bytes, times seconds, unless the name gives another unit.
"""
