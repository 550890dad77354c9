"""What belongs to this machine: the state that its servers publish, the kernel's attach points, synchronous callers."""
