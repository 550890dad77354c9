"""What is at the other end of a device's bytes: terminals, sockets, files, FIFOs, network interfaces."""
