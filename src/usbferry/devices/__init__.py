"""Virtual devices: declared descriptors, handlers for what is not standard, and chapter 9 done once for all.

A **pipe** is one endpoint of the settings in force: its queue, its halt, its pace. A **handler** answers the transfer
at the head of a pipe: with a Completion at once, with a future, or with None, USB's NAK: ask again after `kick`.
"""
